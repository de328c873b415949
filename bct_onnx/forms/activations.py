"""What a product multiplies, as floats or as codes whose scales are found at run time or calibrated."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from bct_onnx.graph.neighbours import made_by, operand


@dataclasses.dataclass(frozen=True)
class Activation:
    """An activation [..., K] as a product reads it.

    Attributes:
        value: What the product reads: floats, or floats that codes were decoded to.
        decode: The DequantizeLinear that decodes codes; None where there are none.
        quantize: The QuantizeLinear or DynamicQuantizeLinear that made the codes; None where something else did.
    """

    value: ir.Value
    decode: ir.Node | None = None
    quantize: ir.Node | None = None

    @classmethod
    def of(cls, value: ir.Value) -> Activation:
        """The codes behind a value, if there are any."""
        decode = made_by(value, "DequantizeLinear")
        if decode is None:
            return cls(value)
        return cls(value, decode, made_by(decode.inputs[0], "QuantizeLinear", "DynamicQuantizeLinear"))

    @property
    def is_float(self) -> bool:
        """Whether no codes stand behind it."""
        return self.decode is None

    @property
    def is_per_tensor(self) -> bool:
        """Whether it has one scale, found at run time."""
        return self.quantize is not None and self.quantize.op_type == "DynamicQuantizeLinear"

    @property
    def is_blocked(self) -> bool:
        """Whether it has more than one scale: one per token, or one per block of a token."""
        return self.decode is not None and "block_size" in self.decode.attributes

    def is_per_token(self, k: int) -> bool:
        """Whether it has one scale per row of ``k`` channels and a single zero point for all, as quantize-activations
        writes them."""
        node = self.quantize
        if node is None or node.op_type != "QuantizeLinear" or node.attributes.get_int("block_size", 0) != k:
            return False
        points = operand(node, 2)
        return points is None or made_by(points, "Expand") is not None

    @property
    def source(self) -> ir.Value | None:
        """The floats as they were before they became codes; None where they were codes all along."""
        if self.decode is None:
            return self.value
        return operand(self.quantize, 0)

    @property
    def rank(self) -> int:
        """Number of axes, from any value that has it too; 0 where none is known."""
        for value in (self.value, operand(self.decode, 0), self.source):
            if value is not None and value.shape is not None:
                return value.shape.rank()
        return 0
