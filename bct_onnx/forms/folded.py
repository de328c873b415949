"""Few-bit weights decoded by arithmetic on constants, which runtimes do once, when a session is created.

    W[K, N] = codes * (multipliers * Cast(scale))           each multiplier for a block of rows

Integers lie in slices of 1, 2 or 4 bits, several to a byte: 3 bits are a slice of 2 below one of 1, 5 and 6 one of 4
below the rest. Bytes are taken
apart as floats, by division and `Floor`. OpenVINO 2026.4 takes a ``Cast`` of INT4 or INT8 in front of a ``Mul`` for
compressed weights of its own, and gives wrong numbers or fails where the scales are not as it thinks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.forms import packed
from bct_onnx.graph.edit import Edit
from bct_onnx.quant import Blocks
from bct_onnx.quant.packing import pack
from bct_onnx.quant.scheme import MULTIPLIER_BITS

SLICES = {2: {0: 2}, 3: {0: 2, 2: 1}, 4: {0: 4}, 5: {0: 4, 4: 1}, 6: {0: 4, 4: 2}}
"""Bits of a code: the bits of each of its slices, by the bit of the code at which it begins."""


def decoded(edit: Edit, blocks: Blocks) -> ir.Value:
    """float32 [K, N] from constants that hold ``blocks``."""
    rows, width = blocks.scheme.block_shape
    wide = _matrix(edit, f"{edit.label}.codes", blocks.codes, blocks.scheme.bits)
    steps = packed.float32(edit, edit.constant(f"{edit.label}.scale", np.atleast_1d(blocks.scale)))
    if blocks.multipliers is not None:
        factors = _matrix(edit, f"{edit.label}.multipliers", blocks.multipliers, MULTIPLIER_BITS)
        steps = edit.op("Mul", factors, steps, name="block_scales")
    if width > 1:
        places = edit.shape("columns", (np.arange(blocks.shape[1]) // width).tolist())
        steps = edit.op("Gather", steps, places, axis=-1, name="by_column")
    if blocks.multipliers is not None:
        places = edit.shape("rows", (np.arange(blocks.shape[0]) // rows).tolist())
        steps = edit.op("Gather", steps, places, axis=0, name="by_row")
    return edit.op("Mul", wide, steps, name="decoded")


def _matrix(edit: Edit, name: str, codes: npt.NDArray[np.integer], bits: int) -> ir.Value:
    """Integers [K, N] as floats, from constants without a gap between rows."""
    whole = edit.shape("whole", [-1])
    flat = integers(edit, name, codes.reshape(-1), bits, whole, lambda constant: constant)
    return edit.op("Reshape", flat, edit.shape("grid", list(codes.shape)), name="matrix")


def integers(
    edit: Edit,
    name: str,
    codes: npt.NDArray[np.integer],
    bits: int,
    flat: ir.Value,
    take: Callable[[ir.Value], ir.Value],
) -> ir.Value:
    """Integers as floats, from constants that hold them in slices, or a byte for each where they need more bits.

    Args:
        edit: Where to write.
        name: Of the constants.
        codes: Integers [..., n], packed along their last axis.
        bits: 2 to 6 or 8.
        flat: The shape [..., -1] of what is taken.
        take: What of a constant is decoded: all of it, or some rows.
    """
    offset = _offset(codes, bits)
    if offset is None:
        return edit.op("Cast", take(edit.constant(name, codes.astype(np.int8))), to=ir.DataType.FLOAT, name="wide")
    unsigned, parts = (codes.astype(np.int16) + offset).astype(np.uint8), list[ir.Value]()
    for begin, width in SLICES[bits].items():
        part = pack(unsigned >> np.uint8(begin) & np.uint8((1 << width) - 1), width, axis=-1)
        stored = edit.constant(name if begin == 0 else f"{name}.high", part)
        wide = edit.op("Cast", take(stored), to=ir.DataType.FLOAT, name="bytes")
        values = edit.op("Reshape", _apart(edit, wide, width), flat, name="slice")
        if codes.shape[-1] % (8 // width):
            ends = [edit.shape(end, [at]) for end, at in (("first", 0), ("length", codes.shape[-1]), ("last", -1))]
            values = edit.op("Slice", values, *ends, name="slice")
        if begin:
            values = edit.op("Mul", values, _float(edit, "above", 1 << begin), name="above")
        parts.append(values)
    whole = parts[0] if len(parts) == 1 else edit.op("Add", *parts, name="unsigned")
    if offset:
        return edit.op("Sub", whole, _float(edit, "middle", offset), name="signed")
    return whole


def _offset(codes: npt.NDArray[np.integer], bits: int) -> int | None:
    """What makes integers unsigned ones of so many bits; None where they do not fit."""
    low, high = int(codes.min()), int(codes.max())
    offset = 1 << (bits - 1) if low < 0 else 0
    if bits in SLICES and low + offset >= 0 and high + offset < 1 << bits:
        return offset
    return None


def _apart(edit: Edit, wide: ir.Value, bits: int) -> ir.Value:
    """The parts [..., 2, 2 ...] of bytes, from their low end on, each of so many bits: floats from floats, exactly."""
    last, size = edit.shape("last", [-1]), 8
    while size > bits:
        size //= 2
        high = edit.op("Floor", edit.op("Mul", wide, _float(edit, "share", 1 / (1 << size)), name="share"), name="high")
        low = edit.op("Sub", wide, edit.op("Mul", high, _float(edit, "base", 1 << size), name="above"), name="low")
        halves = [edit.op("Unsqueeze", half, last, name="half") for half in (low, high)]
        wide = edit.op("Concat", *halves, axis=-1, name="parts")
    return wide


def _float(edit: Edit, name: str, number: float) -> ir.Value:
    return edit.scalar(name, float(number), ir.DataType.FLOAT)
