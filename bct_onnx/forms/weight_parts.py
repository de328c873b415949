"""The constants that a quantized weight is decoded from, where it is spelled as `weights.write` spells it."""

from __future__ import annotations

import onnx_ir as ir

from bct_onnx.forms import packed
from bct_onnx.graph import functions
from bct_onnx.graph.known import rank_of, size_of
from bct_onnx.graph.neighbours import made_by

Parts = tuple[ir.Value, ir.Value | None, ir.Value, ir.Value | None, tuple[int, int]]
"""Codes, multipliers, scale, zero points, and rows and columns of a block: see `weights.StoredWeight`."""

_SIGNED = (ir.DataType.INT2, ir.DataType.INT4, ir.DataType.INT8)
_UNSIGNED = (ir.DataType.UINT4, ir.DataType.UINT8)


def parts(decode: ir.Node, *, transposed: bool) -> Parts | None:
    """The constants under the operator that gives a weight; None where it is spelled otherwise.

    Args:
        decode: A DequantizeLinear.
        transposed: Whether a Transpose follows, or turns the codes, as the weight is a table.
    """
    along, across = (1, 0) if transposed else (0, 1)  # the axes of blocks and of scales
    codes, (scale, columns) = decode.inputs[0], _unexpanded(decode.inputs[1])
    offset = made_by(codes, "DecodeInt8Offset", domain=functions.DOMAIN)
    if offset is not None and len(offset.inputs) == 3:
        matrix, multipliers, zero_points = offset.inputs
        constants = all(_are_codes(value, *_UNSIGNED) for value in offset.inputs)
        if scale is None or not (constants and _is_plain(decode, across) and _is_scale(scale)):
            return None
        assert matrix is not None
        return matrix, multipliers, scale, zero_points, (offset.attributes["rows"].as_int(), columns)
    if (turned := made_by(codes, "Transpose")) is not None and "block_size" not in decode.attributes:
        codes, across = turned.inputs[0], 1
    if codes is None or scale is None or not _are_codes(codes):
        return None
    if "block_size" not in decode.attributes:
        if not (_is_plain(decode, across) and _is_scale(scale)):
            return None
        return codes, None, scale, None, (1, columns)
    inner = made_by(scale, "DequantizeLinear")
    if inner is None or not (_is_plain(decode, along) and _is_plain(inner, across) and _is_scale(inner.inputs[1])):
        return None  # also one float scale per block: no single scale per column
    multipliers, step = inner.inputs[0], inner.inputs[1]
    if not _are_codes(multipliers, ir.DataType.UINT4) or "block_size" in inner.attributes:
        return None
    assert step is not None
    size = decode.attributes["block_size"].as_int()
    return codes, multipliers, step, None, (1, size) if transposed else (size, columns)


def _unexpanded(scale: ir.Value | None) -> tuple[ir.Value | None, int]:
    """What a scale per column is expanded from, and for how many columns each of it is."""
    expand = made_by(scale, "ExpandColumns", domain=functions.DOMAIN)
    if expand is None:
        return scale, 1
    return expand.inputs[0], expand.attributes["columns"].as_int()


def _is_plain(decoding: ir.Node, axis: int) -> bool:
    """Whether a DequantizeLinear is along ``axis``, without zero points, and gives the type of its scale."""
    has_more = len(decoding.inputs) > 2 and decoding.inputs[2] is not None
    return not has_more and decoding.attributes.get_int("axis", 1) == axis and "output_dtype" not in decoding.attributes


def swaps(transpose: ir.Node) -> bool:
    """Whether a Transpose is that of a matrix."""
    perm = transpose.attributes.get("perm")
    return perm is not None and list(perm.as_ints()) == [1, 0]


def _are_codes(value: ir.Value | None, *also: ir.DataType) -> bool:
    """Whether these are a constant matrix of small integers, signed or of ``also``, or what our boxes unpack."""
    box = made_by(value, "Unpack", "UnpackPlanes", "UnpackSlices", domain=functions.DOMAIN)
    if box is not None:
        return box.inputs[0] is not None and box.inputs[0].is_initializer()
    return value is not None and value.is_initializer() and rank_of(value) == 2 and value.dtype in (*_SIGNED, *also)


def _is_scale(value: ir.Value | None) -> bool:
    """Whether this is float32 and one number per column: an initializer, or one that is stored as another type."""
    source, kind = packed.uncast(value)
    if source is None or not source.is_initializer() or not size_of(source, 0, rank=1):
        return False  # ONNX Runtime loads a model whose scale is empty
    return kind == ir.DataType.FLOAT
