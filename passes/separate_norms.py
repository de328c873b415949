"""Keep LayerNormalization out of a fusion that makes it slower."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Declined, NodePass, Outcome, Site, Stage
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.known import rank_of
from bct_onnx.graph.neighbours import producer, provided
from bct_onnx.graph.operators import identifier
from bct_onnx.graph.tensors import is_constant_expression

NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")


@dataclasses.dataclass(frozen=True)
class SeparateNorms(NodePass):
    """Spell the residual addition in front of a normalization as Sum, which ONNX Runtime does not fuse with it.

    Why:
        ONNX Runtime's CPU provider fuses Add and LayerNormalization into SkipLayerNormalization, which takes several
        times as long as the two it replaces (measured: 6 to 7 ns per element against 0.5 and 1). Sum of two values is
        the same addition.

    Before/after:
        ``LayerNormalization(Add(x, y))`` becomes ``LayerNormalization(Sum(x, y))``.

    Declines:
        Additions whose operands have different or unknown ranks: the runtime does not fuse them anyway.

    Options:
        None.

    Promise:
        Exact.
    """

    name: ClassVar[str] = "separate-norms"
    stage: ClassVar[Stage] = Stage.LOWER
    operators: ClassVar[tuple[str, ...]] = NORMS

    def rewrite(self, node: ir.Node, model: ir.Model) -> Outcome:
        """Rewrite the addition in front of one normalization."""
        addition = producer(node.inputs[0])
        if addition is None or identifier(addition) != "Add":
            return None
        if _broadcasts(addition):
            return Declined(addition.name or "", "its operands differ in rank; the runtime does not fuse it")
        edit = Edit(addition)
        edit.replace(addition.outputs[0], edit.op("Sum", *addition.inputs))
        return Site(edit.made[0].name or "", ("Add", node.op_type))


def _broadcasts(addition: ir.Node) -> bool:
    """Whether an operand is a constant, or has another rank than the result."""
    operands = provided(addition.inputs)
    constant = any(value.is_initializer() or is_constant_expression(value) for value in operands)
    return constant or len(set(provided(map(rank_of, operands)))) > 1
