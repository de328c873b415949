"""The portable spelling of a quantized weight: how it is written into a graph, and how it is read back.

    W[K, N] = DequantizeLinear(codes, DequantizeLinear(multipliers, scale))          two levels, blocks along K
    W[K, N] = DequantizeLinear(codes, scale)                                         one scale per column

Codes of 4 and 8 bits are ONNX tensors of that type; 2 and 3 bits, and tables that are gathered from, are packed
bytes under an `ai.bct` Unpack box. A table [V, D] used as a weight is the same in rows, under a Transpose.
Passes write it, lowerings read it; nothing else knows the spelling.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.forms.weight_parts import parts, producer, swaps
from bct_onnx.graph import functions, tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.quant import Blocks
from bct_onnx.quant.packing import pack, pack_nibbles, packed_length

SENSITIVE = "bct_onnx.sensitive"
"""Key in ``Value.meta`` of a weight that 4 bits are too few for: it gets 8, unless option formats names it."""

_PACKED_AT_ONCE = 1 << 17  # codes packed at a time: packing makes several copies


@dataclasses.dataclass(frozen=True)
class Stored:
    """A quantized weight as found in a graph.

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
        size = (self.codes.shape or ir.Shape([0, 0]))[0 if self.transposed else 1]
        assert isinstance(size, int)
        return size


def write(model: ir.Model, edit: Edit, name: str, blocks: Blocks) -> ir.Value:
    """Write ``blocks`` (packed as they are or not at all) as initializers called ``name.*`` and the operators that
    decode them; return W [K, N], float32."""
    scheme = blocks.scheme
    codes = _codes(model, edit, name, blocks)
    scale = float32(edit, edit.constant(f"{name}.scale", blocks.scale))
    rows, columns = scheme.block_shape
    if blocks.zero_points is not None:
        return _write_offset(model, edit, name, blocks, codes, scale)
    if blocks.multipliers is not None:
        multipliers = _nibbles(edit, f"{name}.multipliers", blocks.multipliers)
        scale = edit.op("DequantizeLinear", multipliers, scale, axis=1, name="block_scales")
    scale = _expand_columns(model, edit, scale, blocks.shape[1], columns)
    if blocks.multipliers is None and blocks.scale.ndim == 1:
        return edit.op("DequantizeLinear", codes, scale, axis=1, name="weight")
    return edit.op("DequantizeLinear", codes, scale, axis=0, block_size=rows, name="weight")


def read(weight: ir.Value | None) -> Stored | None:
    """Read back a weight that `write` or `tables.as_weight` has written as integers; None for anything else.

    That is any spelling but these, however near it comes: other axes or types, zero points of the operator, codes or
    scales that are computed. A model that another tool has quantized has such ones.
    """
    if weight is None or not tensors.is_constant_expression(weight):
        return None
    cast = producer(weight, "Cast")
    float32 = cast.inputs[0] if cast is not None else weight
    transpose = producer(float32, "Transpose")
    outer = producer(transpose.inputs[0] if transpose is not None else float32, "DequantizeLinear")
    if outer is None or float32 is None or (transpose is not None and not swaps(transpose)):
        return None
    found = parts(outer, transposed=transpose is not None)
    if found is None:
        return None
    codes, multipliers, scale, zero_points, block = found
    k = (codes.shape or ir.Shape([0, 0]))[1 if transpose is not None else 0]
    if not isinstance(k, int):
        return None  # codes that are not what was written
    dtype = ir.DataType(cast.attributes["to"].as_int()) if cast is not None else ir.DataType.FLOAT
    return Stored(codes, multipliers, scale, zero_points, block, transpose is not None, k, float32, dtype)


def int8(model: ir.Model, edit: Edit, stored: Stored) -> ir.Value:
    """Operators on constants that give the weight as int8 [K, N], each column (see `column_scale`) short of its
    scale."""
    rows, columns = stored.block
    matrix = stored.codes
    blocks: dict[str, Any] = {"rows": rows, "columns": columns}
    if stored.zero_points is not None:
        name, points = "DecodeInt8Offset", (stored.multipliers, stored.zero_points)
        matrix = edit.op(name, matrix, *points, domain=functions.use(model, name), **blocks)
    elif stored.multipliers is not None:
        name = "DecodeInt8"
        matrix = edit.op(name, matrix, stored.multipliers, domain=functions.use(model, name), **blocks)
    elif matrix.dtype != ir.DataType.INT8:
        matrix = edit.op("Cast", matrix, to=ir.DataType.INT8, name="int8")
    return edit.op("Transpose", matrix, perm=[1, 0]) if stored.transposed else matrix


def largest(stored: Stored) -> int:
    """A bound on the magnitude of the values of `int8`, from the constants themselves."""
    if not stored.codes.is_initializer():
        return 64  # packed: signed codes and multipliers of at most 4 bits
    low, high = code_range(stored.codes)
    if stored.zero_points is not None:
        zero_low, zero_high = value_range(stored.zero_points)
        low, high = low - zero_high, high - zero_low
    factor = 1 if stored.multipliers is None else max(map(abs, value_range(stored.multipliers)))
    return factor * max(abs(low), abs(high))


def code_range(codes: ir.Value) -> tuple[int, int]:
    """Bounds of a constant's codes: of 4 bits those of their type, as nearly every weight uses all of them."""
    if codes.dtype in (ir.DataType.INT4, ir.DataType.UINT4):
        return int(codes.dtype.min), int(codes.dtype.max)
    return value_range(codes)


def value_range(value: ir.Value) -> tuple[int, int]:
    """Least and largest integer of a constant; those of 4 bits of one that is not at hand."""
    if not value.is_initializer():
        return -8, 7
    array = tensors.array(value)
    found = (int(array.min()), int(array.max())) if array.size else (0, 0)
    tensors.release(value)
    return found


def column_scale(model: ir.Model, edit: Edit, stored: Stored) -> ir.Value:
    """One float32 per column of the weight, [N]."""
    length = stored.codes.shape[-1] if stored.codes.shape is not None else None
    assert isinstance(length, int)
    return _expand_columns(model, edit, stored.scale, length, 1 if stored.transposed else stored.block[1])


def _write_offset(model: ir.Model, edit: Edit, name: str, blocks: Blocks, codes: ir.Value, scale: ir.Value) -> ir.Value:
    """Asymmetric: multiplier * (code - zero point) is formed in integers, one scale per column is left."""
    assert blocks.zero_points is not None and blocks.multipliers is not None
    rows, columns = blocks.scheme.block_shape
    nibbles = [
        _nibbles(edit, f"{name}.{part}", array)
        for part, array in (("multipliers", blocks.multipliers), ("zero_points", blocks.zero_points))
    ]
    domain = functions.use(model, "DecodeInt8Offset")
    matrix = edit.op("DecodeInt8Offset", codes, *nibbles, domain=domain, rows=rows, columns=columns, name="decode")
    scale = _expand_columns(model, edit, scale, blocks.shape[1], columns)
    return edit.op("DequantizeLinear", matrix, scale, axis=1, name="weight")


def _nibbles(edit: Edit, name: str, values: npt.NDArray[Any]) -> ir.Value:
    """Multipliers or zero points as INT4 or UINT4, whichever their sign asks for."""
    signed = values.dtype == np.int8
    return edit.constant(name, values, ir.DataType.INT4 if signed else ir.DataType.UINT4)


def _codes(model: ir.Model, edit: Edit, name: str, blocks: Blocks) -> ir.Value:
    bits, symmetric = blocks.scheme.bits, blocks.scheme.symmetric
    if blocks.packed is not None:
        shape, kind = ir.Shape(blocks.shape), _ir_type(bits, symmetric)
        return edit.constant(f"{name}.codes", ir.PackedTensor(blocks.codes.reshape(-1), kind, shape=shape))
    if bits in (4, 8):
        return edit.constant(f"{name}.codes", blocks.codes, _ir_type(bits, symmetric))
    return unpack(
        model, edit, packed(edit, f"{name}.codes", blocks.codes, bits, symmetric), bits, blocks.shape[1], symmetric
    )


def packed(edit: Edit, name: str, codes: npt.NDArray[Any], bits: int, symmetric: bool = True) -> ir.Value:
    """Register codes packed in bytes along their last axis, offset to be unsigned."""
    (rows, length), offset = codes.shape, _offset(bits, symmetric)
    if bits == 4:
        return edit.constant(name, pack_nibbles(codes, offset))
    stored = np.empty((rows, packed_length(length, bits)), np.uint8)
    step = max(1, _PACKED_AT_ONCE // length)
    for start in range(0, rows, step):
        unsigned = codes[start : start + step].astype(np.uint8) + np.uint8(offset)  # modulo 256
        stored[start : start + step] = pack(unsigned, bits, axis=-1)
    return edit.constant(name, stored)


def unpack(model: ir.Model, edit: Edit, value: ir.Value, bits: int, length: int, symmetric: bool = True) -> ir.Value:
    """The int8 codes of a `packed` constant."""
    offset = _offset(bits, symmetric)
    if bits == 3:
        domain = functions.use(model, "UnpackPlanes")
        codes = edit.op("UnpackPlanes", value, domain=domain, length=[length], offset=offset, name="codes")
    else:
        domain = functions.use(model, "Unpack")
        codes = edit.op("Unpack", value, domain=domain, bits=bits, length=[length], offset=offset, name="codes")
    codes.type, codes.shape = ir.TensorType(ir.DataType.INT8), ir.Shape([*(value.shape or ())[:-1], length])
    return codes


def _offset(bits: int, symmetric: bool) -> int:
    return 1 << (bits - 1) if symmetric else 0


def float32(edit: Edit, value: ir.Value) -> ir.Value:
    """A scale as float32, whatever it is stored in."""
    return value if value.dtype == ir.DataType.FLOAT else edit.op("Cast", value, to=ir.DataType.FLOAT, name="scale")


def _expand_columns(model: ir.Model, edit: Edit, value: ir.Value, length: int, columns: int) -> ir.Value:
    if columns == 1:
        return value
    domain = functions.use(model, "ExpandColumns")
    return edit.op("ExpandColumns", value, domain=domain, columns=columns, length=[length], name="columns")


def _ir_type(bits: int, symmetric: bool) -> ir.DataType:
    if bits == 4:
        return ir.DataType.INT4 if symmetric else ir.DataType.UINT4
    return ir.DataType.INT8 if symmetric else ir.DataType.UINT8
