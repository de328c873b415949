"""Replace sigmoid, SiLU and tanh on codes by integer arithmetic."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import onnx_ir as ir

from bct_onnx.base import NodePass, Outcome, Stage
from bct_onnx.forms import byte_function
from bct_onnx.forms.gated import silu_of


@dataclasses.dataclass(frozen=True)
class IntegerSigmoid(NodePass):
    """Replace every ``Sigmoid``, ``x * Sigmoid(x)`` (SiLU) and ``Tanh`` between codes by a function of integers.

    Why:
        Gated layers of Llama-like models and poolers of BERT-like ones use them as others use GELU.

    Before/after:
        ``Q(Tanh(DQ(codes)))`` becomes ``IntegerTanh(codes, scales and zero points)``, one box; likewise
        ``IntegerSigmoid`` and ``IntegerSilu``.

    Declines:
        A function whose input or output is not quantized with one constant scale (see quantize-intermediates). Where
        the variant does not hold with the scales of a place, because results are small there, it gets a table.

    Options:
        variant: ``polynomial``, by I-BERT's exponential; ``table``, 256 entries, correctly rounded.

    Promise:
        Bounded: the variant's error and half a step of the output.
    """

    name: ClassVar[str] = "integer-sigmoid"
    stage: ClassVar[Stage] = Stage.INTEGER
    promise: ClassVar[str] = "bounded"
    operators: ClassVar[tuple[str, ...]] = ("Sigmoid", "Tanh")

    variant: Literal["polynomial", "table"] = "polynomial"

    def rewrite(self, node: ir.Node, model: ir.Model) -> Outcome:
        """Replace one ``Sigmoid``, with the product behind it if that makes it SiLU, or ``Tanh``."""
        product = silu_of(node)
        exact = "Silu" if product is not None else node.op_type
        name = "Lookup" if self.variant == "table" else f"Integer{exact}"
        return byte_function.write(model, node, (product or node).outputs[0], name, exact)
