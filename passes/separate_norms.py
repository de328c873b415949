"""Keep LayerNormalization out of a fusion that makes it slower."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.tensors import is_constant_expression

NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")


@dataclasses.dataclass(frozen=True)
class SeparateNorms(Pass):
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

    def apply(self, model: ir.Model) -> Applied:
        """Rewrite every Add that feeds a normalization."""
        sites: list[Site] = []
        declined: list[Declined] = []
        for graph in (model.graph, *model.graph.subgraphs()):
            for norm in list(graph):
                addition = norm.inputs[0].producer() if norm.op_type in NORMS and norm.inputs[0] is not None else None
                if addition is None or addition.domain or addition.op_type != "Add":
                    continue
                if _broadcasts(addition):
                    declined.append(
                        Declined(addition.name or "", "its operands differ in rank; the runtime does not fuse it")
                    )
                    continue
                edit = Edit(addition)
                edit.replace(addition.outputs[0], edit.op("Sum", *addition.inputs))
                sites.append(Site(edit.made[0].name or "", ("Add", norm.op_type)))
        return Applied(model, sites, declined)


def _broadcasts(addition: ir.Node) -> bool:
    """Whether an operand is a constant, or has another rank than the result."""
    shapes = [value.shape for value in addition.inputs if value is not None]
    operands = [value for value in addition.inputs if value is not None]
    constant = any(value.is_initializer() or is_constant_expression(value) for value in operands)
    known = [len(shape) for shape in shapes if shape is not None]
    return constant or len(set(known)) > 1
