"""Replace softmax on codes by integer arithmetic."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from passes.integer_gelu import function_of_codes


@dataclasses.dataclass(frozen=True)
class IntegerSoftmax(Pass):
    """Replace every ``Softmax`` between codes by a function of integers.

    Why:
        Exponentials are the last float operation of attention. Differences of codes are integers, and 2**-n is a shift.

    Before/after:
        ``Q(Softmax(DQ(codes)))`` becomes ``IntegerSoftmax(codes, scales and zero points)``, one box. Softmaxes inside
        of ``Attention`` are integer-attention's.

    Declines:
        A Softmax over another axis than the last, over more than 8192 values, with steps that the variant is not valid
        for, or whose input or output is not quantized with one constant scale (see quantize-intermediates).

    Options:
        variant: ``polynomial``, I-BERT's i-exp; ``shift``, I-ViT's shifts and additions.

    Promise:
        Bounded: the variant's error and half a step of the output.
    """

    name: ClassVar[str] = "integer-softmax"
    stage: ClassVar[Stage] = Stage.INTEGER
    promise: ClassVar[str] = "bounded"

    variant: Literal["polynomial", "shift"] = "polynomial"

    def apply(self, model: ir.Model) -> Applied:
        """Look at every ``Softmax``, subgraphs included."""
        found: list[Site | Declined] = []
        name = "IntegerSoftmax" if self.variant == "polynomial" else "IntegerShiftSoftmax"
        for node in list(model.graph.all_nodes()):
            if node.op_type != "Softmax" or node.domain:
                continue
            rank = node.inputs[0].shape.rank() if node.inputs[0] is not None and node.inputs[0].shape is not None else 0
            if node.attributes.get_int("axis", -1) not in (-1, rank - 1):
                found.append(Declined(node.name or "", "over another axis than the last"))
                continue
            found.append(function_of_codes(model, node, node.outputs[0], name, ""))
        return Applied.of(model, found)
