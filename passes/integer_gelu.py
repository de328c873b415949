"""Replace GELU on codes by integer arithmetic."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import onnx_ir as ir

from bct_onnx.base import NodePass, Outcome, Stage
from bct_onnx.forms import byte_function


@dataclasses.dataclass(frozen=True)
class IntegerGelu(NodePass):
    """Replace every ``Gelu`` between codes by a function of integers.

    Why:
        Between two integer matrix products nothing need be float: bytes in, bytes out, on any integer hardware.

    Before/after:
        ``Q(Gelu(DQ(codes)))`` becomes ``IntegerGelu(codes, scales and zero points)``, one box.

    Declines:
        A Gelu whose input or output is not quantized with one constant scale (see quantize-intermediates). Where the
        variant does not hold with the scales of a place, because results are small there, it gets a table.

    Options:
        variant: ``polynomial``, I-BERT's second-order erf (within 0.018); ``sigmoid``, x sigmoid(1.702 x) (within
            0.021); ``table``, 256 entries, correctly rounded.

    Promise:
        Bounded: the variant's error and half a step of the output.
    """

    name: ClassVar[str] = "integer-gelu"
    stage: ClassVar[Stage] = Stage.INTEGER
    promise: ClassVar[str] = "bounded"
    operators: ClassVar[tuple[str, ...]] = ("Gelu",)

    variant: Literal["polynomial", "sigmoid", "table"] = "polynomial"

    def rewrite(self, node: ir.Node, model: ir.Model) -> Outcome:
        """Replace one ``Gelu``."""
        name = {"polynomial": "IntegerGelu", "sigmoid": "IntegerSigmoidGelu", "table": "Lookup"}[self.variant]
        exact = "GeluTanh" if node.attributes.get_string("approximate", "none") == "tanh" else "Gelu"
        return byte_function.write(model, node, node.outputs[0], name, exact)
