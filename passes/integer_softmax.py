"""Replace softmax on codes by integer arithmetic."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import onnx_ir as ir

from bct_onnx.base import Declined, NodePass, Outcome, Stage
from bct_onnx.forms import byte_function
from bct_onnx.graph.known import is_last_axis


@dataclasses.dataclass(frozen=True)
class IntegerSoftmax(NodePass):
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
    operators: ClassVar[tuple[str, ...]] = ("Softmax",)

    variant: Literal["polynomial", "shift"] = "polynomial"

    def rewrite(self, node: ir.Node, model: ir.Model) -> Outcome:
        """Replace one ``Softmax``."""
        if not is_last_axis(node.attributes.get_int("axis", -1), node.inputs[0]):
            return Declined(node.name or "", "over another axis than the last")
        name = "IntegerSoftmax" if self.variant == "polynomial" else "IntegerShiftSoftmax"
        return byte_function.write(model, node, node.outputs[0], name, exact="")
