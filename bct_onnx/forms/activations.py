"""What a product multiplies, as floats or as codes whose scales are found at run time or calibrated."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

_QUANTIZING = ("QuantizeLinear", "DynamicQuantizeLinear")


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
        decode = value.producer()
        if decode is None or decode.op_identifier() != ("", "DequantizeLinear", ""):
            return cls(value)
        maker = decode.inputs[0].producer() if decode.inputs[0] is not None else None
        if maker is None or maker.op_type not in _QUANTIZING:
            maker = None
        return cls(value, decode, maker)

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
        points = node.inputs[2] if len(node.inputs) > 2 else None
        if points is None:
            return True
        spread = points.producer()
        return spread is not None and spread.op_type == "Expand"

    @property
    def source(self) -> ir.Value | None:
        """The floats as they were before they became codes; None where they were codes all along."""
        if self.decode is None:
            return self.value
        return self.quantize.inputs[0] if self.quantize is not None else None

    @property
    def rank(self) -> int:
        """Number of axes, from any value that has it too; 0 where none is known."""
        quantized = self.decode.inputs[0] if self.decode is not None else None
        for value in (self.value, quantized, self.source):
            if value is not None and value.shape is not None:
                return value.shape.rank()
        return 0
