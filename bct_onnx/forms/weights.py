"""The portable spelling of a quantized weight: how it is written into a graph, and how it is read back.

    W[K, N] = DequantizeLinear(codes, DequantizeLinear(multipliers, scale))          two levels, blocks along K
    W[K, N] = DequantizeLinear(codes, scale)                                         one scale per column

Codes of 4 and 8 bits are ONNX tensors of that type; 2, 3, 5 and 6 bits, and tables that are gathered from, are packed
bytes under an `ai.bct` Unpack box. A table [V, D] used as a weight is the same in rows, under a Transpose, or over one
where its codes are bytes.
Passes write it, lowerings read it; nothing else knows the spelling.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.forms import packed
from bct_onnx.forms.weight_parts import parts, swaps
from bct_onnx.graph import functions, tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.known import size_of
from bct_onnx.graph.neighbours import made_by
from bct_onnx.quant import Blocks, Scheme
from bct_onnx.quant.strips import oriented

SENSITIVE = "bct_onnx.sensitive"
"""Key in ``Value.meta`` of a weight that 4 bits are too few for: it gets 8, unless option formats names it."""

_TYPES = {
    (4, True): ir.DataType.INT4,
    (4, False): ir.DataType.UINT4,
    (8, True): ir.DataType.INT8,
    (8, False): ir.DataType.UINT8,
}
"""Types of codes that are not packed, by their bits and whether they are signed."""


@dataclasses.dataclass(frozen=True)
class StoredWeight:
    """A weight W [K, N] in few bits, as found in a graph.

    Attributes:
        codes: [K, N] (or [V, D] when `transposed`), int4, int8 or an Unpack box.
        multipliers: One small integer per block, or None.
        scale: One float32 per column, or per column block of `block[1]` (per row when `transposed`).
        zero_points: One per block, or None.
        block: Rows and columns of a block, in the orientation of `codes`.
        transposed: Whether `codes` are a table [V, D] standing for a weight [D, V].
        k: Length of the contracted axis.
        float32: The whole weight [K, N] as float32.
        dtype: Type of the weight as the graph uses it; the model's float type.
    """

    codes: ir.Value
    multipliers: ir.Value | None
    scale: ir.Value
    zero_points: ir.Value | None
    block: tuple[int, int]
    transposed: bool
    k: int
    float32: ir.Value
    dtype: ir.DataType

    @property
    def n(self) -> int:
        """Number of columns, the length of the other axis."""
        assert self.codes.shape is not None
        size = self.codes.shape[int(not self.transposed)]
        assert isinstance(size, int)
        return size

    @property
    def name(self) -> str:
        """Of the weight that was stored: what its constants are called, without their endings."""
        return (packed.constant(self.codes).name or "weight").removesuffix(".codes")

    @property
    def bits(self) -> int:
        """Bits per code as they are stored."""
        box = self.codes.producer()
        if box is not None:
            return packed.bits_of(box)
        if self.codes.dtype is None:
            return 8
        return self.codes.dtype.bitwidth

    @property
    def block_shape(self) -> tuple[int, int]:
        """Length of a block along K and along N; along K all of it, where there is one scale per column."""
        along_k, along_n = reversed(self.block) if self.transposed else self.block
        if self.multipliers is None:
            along_k = self.k
        return along_k, along_n

    def edit(self) -> Edit:
        """For nodes in front of what decodes the weight, where all its users see what they give."""
        decoder = self.float32.producer()
        assert decoder is not None
        return Edit(decoder, (self.codes.name or "weight").removesuffix(".codes"))

    def column_scale(self, model: ir.Model, edit: Edit) -> ir.Value:
        """One float32 per column, [N]."""
        return packed.expand_columns(model, edit, self.scale, self.n, self.block_shape[1])

    def blocks(self) -> Blocks:
        """The numbers, [K, N] whichever way round they are stored."""
        scheme = Scheme(self.bits, self.block_shape, symmetric=self.zero_points is None)
        multipliers = zero_points = None
        codes = self._oriented(self.codes, np.int8 if self.zero_points is None else np.uint8)
        if self.multipliers is not None:
            multipliers = self._oriented(self.multipliers, np.int8)
        if self.zero_points is not None:
            zero_points = self._oriented(self.zero_points, np.uint8)
        scale = tensors.array(packed.constant(self.scale))
        return Blocks(scheme, (self.k, self.n), codes, multipliers, scale, zero_points)

    def rewrite(self, codes: npt.NDArray[Any], scale: npt.NDArray[Any]) -> None:
        """Put other codes [K, N], of the same bits, and other scales of columns into the constants of the graph."""
        packed.rewrite(self.codes, oriented(codes, self.transposed), self.bits, self.zero_points is None)
        stored = packed.constant(self.scale)
        assert stored.dtype is not None
        tensors.refill(stored, scale.astype(stored.dtype.numpy()))

    def _oriented(self, integers: ir.Value, kind: type[np.int8 | np.uint8]) -> npt.NDArray[Any]:
        return oriented(packed.read(integers).astype(kind), self.transposed)


def write(model: ir.Model, edit: Edit, name: str, blocks: Blocks, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    """Write ``blocks`` (packed as they are or not at all) as initializers called ``name.*`` and the operators that
    decode them; return W [K, N] in a type."""
    return packed.typed(edit, _write_float32(model, edit, name, blocks), dtype)


def read(weight: ir.Value | None) -> StoredWeight | None:
    """Read back a weight that `write` or `tables.as_weight` has written as integers; None for anything else.

    That is any spelling but these, however near it comes: other axes or types, zero points of the operator, codes or
    scales that are computed. A model that another tool has quantized has such ones.
    """
    if weight is None or not tensors.is_constant_expression(weight):
        return None
    float32, dtype = packed.uncast(weight)
    transpose = made_by(float32, "Transpose")
    decode = made_by(float32 if transpose is None else transpose.inputs[0], "DequantizeLinear")
    if decode is None or float32 is None:
        return None
    transpose = transpose or made_by(decode.inputs[0], "Transpose")
    if transpose is not None and not swaps(transpose):
        return None
    constants = parts(decode, transposed=transpose is not None)
    if constants is None:
        return None
    codes, multipliers, scale, zero_points, block = constants
    transposed = transpose is not None
    k = size_of(codes, int(transposed), rank=2)
    if k is None:
        return None  # codes that are not what was written
    kind = dtype or ir.DataType.FLOAT
    return StoredWeight(codes, multipliers, scale, zero_points, block, transposed, k, float32, kind)


def _write_float32(model: ir.Model, edit: Edit, name: str, blocks: Blocks) -> ir.Value:
    scheme = blocks.scheme
    codes = _codes(model, edit, name, blocks)
    scale = packed.float32(edit, edit.constant(f"{name}.scale", blocks.scale))
    rows, columns = scheme.block_shape
    if blocks.zero_points is not None:
        return _write_offset(model, edit, name, blocks, codes, scale)
    if blocks.multipliers is not None:
        multipliers = _nibbles(edit, f"{name}.multipliers", blocks.multipliers)
        scale = edit.op("DequantizeLinear", multipliers, scale, axis=1, name="block_scales")
    scale = packed.expand_columns(model, edit, scale, blocks.shape[1], columns)
    if blocks.multipliers is None and blocks.scale.ndim == 1:
        return edit.op("DequantizeLinear", codes, scale, axis=1, name="weight")
    return edit.op("DequantizeLinear", codes, scale, axis=0, block_size=rows, name="weight")


def _write_offset(model: ir.Model, edit: Edit, name: str, blocks: Blocks, codes: ir.Value, scale: ir.Value) -> ir.Value:
    """Asymmetric: multiplier * (code - zero point) is formed in integers, one scale per column is left."""
    assert blocks.zero_points is not None and blocks.multipliers is not None
    rows, columns = blocks.scheme.block_shape
    nibbles = (
        _nibbles(edit, f"{name}.multipliers", blocks.multipliers),
        _nibbles(edit, f"{name}.zero_points", blocks.zero_points),
    )
    domain = functions.use(model, "DecodeInt8Offset")
    matrix = edit.op("DecodeInt8Offset", codes, *nibbles, domain=domain, rows=rows, columns=columns, name="decode")
    scale = packed.expand_columns(model, edit, scale, blocks.shape[1], columns)
    return edit.op("DequantizeLinear", matrix, scale, axis=1, name="weight")


def _nibbles(edit: Edit, name: str, values: npt.NDArray[Any]) -> ir.Value:
    """Multipliers or zero points as INT4 or UINT4, whichever their sign asks for."""
    return edit.constant(name, values, _TYPES[4, values.dtype == np.int8])


def _codes(model: ir.Model, edit: Edit, name: str, blocks: Blocks) -> ir.Value:
    bits, symmetric = blocks.scheme.bits, blocks.scheme.symmetric
    if blocks.packed is not None:
        shape, kind = ir.Shape(blocks.shape), _TYPES[bits, symmetric]
        return edit.constant(f"{name}.codes", ir.PackedTensor(blocks.codes.reshape(-1), kind, shape=shape))
    if bits in (4, 8):
        return edit.constant(f"{name}.codes", blocks.codes, _TYPES[bits, symmetric])
    constant = packed.write(edit, f"{name}.codes", blocks.codes, bits, symmetric)
    return packed.unpack(model, edit, constant, bits, blocks.shape[1], symmetric)
