"""The constants that a quantized weight is decoded from, where it is spelled as `weights.write` spells it."""

from __future__ import annotations

import onnx_ir as ir

from bct_onnx.graph import functions

Parts = tuple[ir.Value, ir.Value | None, ir.Value, ir.Value | None, tuple[int, int]]
"""Codes, multipliers, scale, zero points, and rows and columns of a block: see `weights.Stored`."""

_SIGNED = (ir.DataType.INT2, ir.DataType.INT4, ir.DataType.INT8)
_UNSIGNED = (ir.DataType.UINT4, ir.DataType.UINT8)


def parts(outer: ir.Node, *, transposed: bool) -> Parts | None:
    """The constants under the operator that gives a weight; None where it is spelled otherwise.

    Args:
        outer: A DequantizeLinear.
        transposed: Whether a Transpose follows, as the weight is a table.
    """
    along, across = (1, 0) if transposed else (0, 1)  # the axes of blocks and of scales
    codes, scale = outer.inputs[0], outer.inputs[1]
    expand = producer(scale, "ExpandColumns", functions.DOMAIN)
    columns = expand.attributes["columns"].as_int() if expand is not None else 1
    inner_scale = expand.inputs[0] if expand is not None else scale
    decode = producer(codes, "DecodeInt8Offset", functions.DOMAIN)
    if decode is not None and len(decode.inputs) == 3:
        matrix, multipliers, zero_points = decode.inputs
        constants = all(_are_codes(one, *_UNSIGNED) for one in decode.inputs)
        if not (constants and _is_plain(outer, across) and _is_scale(inner_scale)):
            return None
        assert matrix is not None and inner_scale is not None
        return matrix, multipliers, inner_scale, zero_points, (decode.attributes["rows"].as_int(), columns)
    if codes is None or inner_scale is None or not _are_codes(codes):
        return None
    if "block_size" not in outer.attributes:
        is_ours = _is_plain(outer, across) and _is_scale(inner_scale)
        return (codes, None, inner_scale, None, (1, columns)) if is_ours else None
    inner = producer(inner_scale, "DequantizeLinear")
    if inner is None or not (_is_plain(outer, along) and _is_plain(inner, across) and _is_scale(inner.inputs[1])):
        return None  # also one float scale per block: no single scale per column
    multipliers, step = inner.inputs[0], inner.inputs[1]
    if not _are_codes(multipliers, ir.DataType.UINT4) or "block_size" in inner.attributes:
        return None
    assert step is not None
    size = outer.attributes["block_size"].as_int()
    return codes, multipliers, step, None, (1, size) if transposed else (size, columns)


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
    box = producer(value, "Unpack", functions.DOMAIN) or producer(value, "UnpackPlanes", functions.DOMAIN)
    if box is not None:
        return box.inputs[0] is not None and box.inputs[0].is_initializer()
    if value is None or not value.is_initializer() or value.shape is None or len(value.shape) != 2:
        return False
    return value.dtype in (*_SIGNED, *also)


def _is_scale(value: ir.Value | None) -> bool:
    """Whether this is float32 and one number per column: an initializer, or one that is stored as another type."""
    cast = producer(value, "Cast")
    source = cast.inputs[0] if cast is not None else value
    if source is None or not source.is_initializer() or source.shape is None or len(source.shape) != 1:
        return False
    kind = ir.DataType(cast.attributes["to"].as_int()) if cast is not None else source.dtype
    return kind == ir.DataType.FLOAT


def producer(value: ir.Value | None, op_type: str | None = None, domain: str = "") -> ir.Node | None:
    """The node that makes a value, if it is the operator asked for."""
    node = value.producer() if value is not None else None
    if node is None or op_type is None:
        return node
    return node if (node.op_type, node.domain) == (op_type, domain) else None
