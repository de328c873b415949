"""Activations as integer codes: how a calibrated quantization is written into a graph, and how it is read back.

    value = DequantizeLinear(QuantizeLinear(x, scale, zero_point), scale, zero_point)          scalar constants

Integer functions (`ai.bct`) stand between the two: codes in, codes out. A residual stream is int32 codes without a zero
point, and ``value = Cast(codes) * scale``: ONNX Runtime moves a DequantizeLinear behind a Reshape, Transpose, Slice,
Squeeze, Unsqueeze or MaxPool that follows it, and puts a QuantizeLinear there, which has no kernel for int32. A vector
of factors may follow, one per channel: ``value = DequantizeLinear(codes, scale, zero_point) * factors``.
Passes write it and lowerings read it; nothing else knows the spelling.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.graph import functions, tensors
from bct_onnx.graph.edit import Edit, take_place
from bct_onnx.graph.neighbours import made_by, only_use, operand, provided

TYPES = {8: ir.DataType.UINT8, 16: ir.DataType.INT16, 32: ir.DataType.INT32}
"""Type of the codes by their bits."""


@dataclasses.dataclass(frozen=True)
class Codes:
    """An activation in integers, as found in a graph: ``scale * (codes - zero_point) * factors``.

    Attributes:
        codes: uint8, int8, int16 or int32.
        scale: float32 constant, rank 0.
        zero_point: Constant of the codes' type, rank 0; None for 0.
        factors: float32 constant, one per channel [K]; None for 1.
        nodes: The operators that turn the codes into the value, last first.
    """

    codes: ir.Value
    scale: ir.Value
    zero_point: ir.Value | None
    factors: ir.Value | None
    nodes: tuple[ir.Node, ...]

    @property
    def is_bytes(self) -> bool:
        """Whether the codes have 8 bits."""
        return self.codes.dtype in (ir.DataType.UINT8, ir.DataType.INT8)

    @property
    def step(self) -> float:
        """The scale as a number."""
        return float(tensors.array(self.scale))


@dataclasses.dataclass(frozen=True)
class Range:
    """What a calibrated value spans: ``low <= 0 <= high``."""

    low: float
    high: float

    def uint8(self) -> tuple[np.float32, int]:
        """Scale and zero point that spread the range over 256 codes; 0 has a code of its own."""
        scale = np.float32(max(self.high - self.low, 1e-30) / 255)
        with np.errstate(over="ignore"):  # a low beyond float32 has the last code
            return scale, int(np.clip(np.rint(-self.low / scale), 0, 255))

    def uint16(self) -> tuple[np.float32, int]:
        """Scale and zero point that spread the range over 65536 codes; 0 has a code of its own."""
        scale = np.float32(max(self.high - self.low, 1e-30) / 65535)
        return scale, int(np.clip(np.rint(-self.low / scale), 0, 65535))

    def int16(self) -> tuple[np.float32, int]:
        """Scale of symmetric 16-bit codes, and 0."""
        return np.float32(max(self.high / 32767, -self.low / 32768, 1e-35)), 0

    def shifted(self, bits: int) -> Range:
        """The smallest range around this one that is symmetric and whose scale is a power of two."""
        top = 2 ** (bits - 1) - 1
        step = 2.0 ** math.ceil(math.log2(max(self.high / top, -self.low / (top + 1), 1e-30)))
        return Range(-step * (top + 1), step * top)


def write(edit: Edit, value: ir.Value, span: Range, bits: int = 8, *, unsigned: bool = False) -> ir.Value:
    """Quantize ``value`` to 8 (uint8) or 16 bits (int16, or uint16 if ``unsigned``) and back; return what is back."""
    kind, (step, zero) = TYPES[bits], span.uint8() if bits == 8 else span.int16()
    if unsigned and bits == 16:
        kind, (step, zero) = ir.DataType.UINT16, span.uint16()
    scale = edit.scalar("scale", float(step), ir.DataType.FLOAT)
    point, source = edit.scalar("zero_point", zero, kind), value
    if source.dtype != ir.DataType.FLOAT:
        source = edit.op("Cast", value, to=ir.DataType.FLOAT, name="float")
    codes = edit.op("QuantizeLinear", source, scale, point, name="codes")
    codes.dtype, codes.shape = kind, value.shape
    return give(edit, codes, scale, point, value)


def insert(value: ir.Value, span: Range, bits: int = 8, *, unsigned: bool = False) -> ir.Value:
    """Quantize ``value`` where it is made, for all its users; return what they now read, under the old name."""
    producer = value.producer()
    if producer is None or producer.graph is None:
        raise ValueError(f"value {value.name!r} is made by no node")
    users = list(value.uses())
    back = write(Edit(producer, value.name or "activation", after=True), value, span, bits, unsigned=unsigned)
    for use in users:
        use.node.replace_input_with(use.idx, back)
    take_place(value, back, "float")
    return back


def give(edit: Edit, codes: ir.Value, scale: ir.Value, zero_point: ir.Value | None, like: ir.Value) -> ir.Value:
    """``codes`` as a float value of the type and shape of ``like``."""
    if codes.dtype == ir.DataType.INT32 and zero_point is None:
        wide = edit.op("Cast", codes, to=ir.DataType.FLOAT, name="wide")
        wide.dtype, wide.shape = ir.DataType.FLOAT, like.shape
        back = edit.op("Mul", wide, scale, name="value")
    else:
        back = edit.op("DequantizeLinear", codes, scale, *provided([zero_point]), name="value")
    back.dtype, back.shape = ir.DataType.FLOAT, like.shape
    if like.dtype not in (None, ir.DataType.FLOAT):
        back = edit.op("Cast", back, to=like.dtype, name="typed")
        back.dtype, back.shape = like.dtype, like.shape
    back.meta.update(like.meta)
    return back


def read(value: ir.Value | None) -> Codes | None:
    """The codes behind ``value``, where one constant scale covers the whole of it; None otherwise."""
    nodes: list[ir.Node] = []
    factors: ir.Value | None = None
    node = made_by(value)
    if node is not None and node.op_type == "Mul" and not _decodes(node):
        value, factors = _scaled(node)
        nodes.append(node)
        node = made_by(value)
    if node is not None and node.op_type == "Cast":
        nodes.append(node)
        node = made_by(node.inputs[0])
    decoding = _decodes(node)
    if not decoding:
        return None
    codes, scale, zero_point = decoding[-1].inputs[0], decoding[0].inputs[1], operand(decoding[0], 2)
    if codes is None or scale is None or not _is_step(scale) or codes.is_initializer():
        return None  # found at run time, one of many, or a weight
    if not _is_point(zero_point):
        return None
    return Codes(codes, scale, zero_point, factors, (*nodes, *decoding))


def values_of(codes: ir.Value) -> list[ir.Value]:
    """The float values that `give` made of ``codes``."""
    values: list[ir.Value] = []
    for use in codes.uses():
        node, behind = use.node, list(use.node.outputs[0].uses())
        if len(behind) == 1 and _decodes(behind[0].node) == (behind[0].node, node):
            node = behind[0].node
        if _decodes(node):
            values.append(node.outputs[0])
    return values


def quantized(value: ir.Value) -> ir.Node | None:
    """The ``QuantizeLinear`` that alone uses ``value``, with one constant scale."""
    node = _only_user(value)
    if node is not None and node.op_type == "Cast":
        node = _only_user(node.outputs[0])
    if node is None or node.op_type != "QuantizeLinear":
        return None
    scale, zero_point = node.inputs[1], operand(node, 2)
    if scale is None or zero_point is None or not (_is_step(scale) and _is_point(zero_point)):
        return None
    return node


def quantized_to_bytes(value: ir.Value) -> ir.Node | None:
    """As `quantized`, to uint8: what a pass that gives codes replaces."""
    node = quantized(value)
    if node is None or node.outputs[0].dtype != ir.DataType.UINT8:
        return None
    return node


def vector(value: ir.Value | None) -> npt.NDArray[Any] | None:
    """The float constant ``value``, maybe cast from another type, if it has one number per channel (or one in all)."""
    cast = made_by(value, "Cast")
    if cast is not None:
        value = cast.inputs[0]
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    tensor = value.const_value
    if tensor.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16) or len(tensor.shape) > 1:
        return None
    return tensors.array(value)


def _is_step(scale: ir.Value) -> bool:
    """Whether this is a float32 constant of rank 0 that can be divided by: models come with others."""
    number = tensors.small_constant(scale, limit=1)
    return number is not None and number.shape == () and number.dtype == np.float32 and 0 < float(number) < np.inf


def _is_point(zero_point: ir.Value | None) -> bool:
    """Whether this is none, or a constant of rank 0."""
    return zero_point is None or (zero_point.const_value is not None and zero_point.const_value.shape == ir.Shape([]))


def _only_user(value: ir.Value) -> ir.Node | None:
    use = only_use(value)
    if use is None or use[0].domain:
        return None
    return use[0]


def _scaled(node: ir.Node) -> tuple[ir.Value | None, ir.Value | None]:
    """Both sides of a multiplication by one factor per channel."""
    for index in (1, 0):
        factor = vector(node.inputs[index])
        if factor is not None and factor.ndim == 1:
            return node.inputs[1 - index], node.inputs[index]
    return None, None


def _decodes(node: ir.Node | None) -> tuple[ir.Node, ...]:
    """The operators that `give` writes and that end in ``node``, last first; none where it is no such operator."""
    if node is None or node.domain:
        return ()
    if node.op_type == "DequantizeLinear":
        return (node,)
    cast = made_by(node.inputs[0], "Cast") if node.op_type == "Mul" else None
    if cast is None or cast.inputs[0] is None or cast.inputs[0].dtype != ir.DataType.INT32:
        return ()
    if made_by(cast.inputs[0], domain=functions.DOMAIN) is None:
        return ()
    return (node, cast)
