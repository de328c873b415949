"""Few-bit weights decoded by arithmetic on constants, which runtimes do once, when a session is created.

    W[K, N] = (nibbles of bytes - 8) * (Cast(multipliers) * scale)          each multiplier for a block of rows

Codes and multipliers of 4 bits are bytes that hold two: OpenVINO 2026.4 takes a ``Cast`` of INT4 or INT8 in front of a
``Mul`` for compressed weights of its own, and gives wrong numbers or fails where the scales are not as it thinks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.forms import packed
from bct_onnx.graph.edit import Edit
from bct_onnx.quant import Blocks
from bct_onnx.quant.packing import pack_nibbles

MIDDLE = 8
"""What is added to signed codes of 4 bits."""


def decoded(edit: Edit, blocks: Blocks) -> ir.Value:
    """float32 [K, N] from constants that hold ``blocks``."""
    wide = _integers(edit, f"{edit.label}.codes", blocks.codes)
    scale = np.repeat(np.atleast_1d(blocks.scale), blocks.scheme.block_shape[1])[: blocks.shape[1]]
    steps = packed.float32(edit, edit.constant(f"{edit.label}.scale", scale))
    if blocks.multipliers is not None:
        steps = _by_row(edit, blocks, steps)
    return edit.op("Mul", wide, steps, name="decoded")


def _by_row(edit: Edit, blocks: Blocks, columns: ir.Value) -> ir.Value:
    """One scale for each value [K, N], from one per block and one per column [N]."""
    assert blocks.multipliers is not None
    rows, width = blocks.scheme.block_shape
    factors = _integers(edit, f"{edit.label}.multipliers", blocks.multipliers)
    if width > 1:
        places = edit.shape("columns", (np.arange(blocks.shape[1]) // width).tolist())
        factors = edit.op("Gather", factors, places, axis=1, name="by_column")
    steps = edit.op("Mul", factors, columns, name="block_scales")
    places = edit.shape("rows", (np.arange(blocks.shape[0]) // rows).tolist())
    return edit.op("Gather", steps, places, axis=0, name="by_row")


def _integers(edit: Edit, name: str, codes: npt.NDArray[np.integer]) -> ir.Value:
    """Integers [K, N] as floats, from bytes that hold two where they fit."""
    if not fits(codes):
        return edit.op("Cast", edit.constant(name, codes.astype(np.int8)), to=ir.DataType.FLOAT, name="wide")
    stored = edit.constant(name, pack_nibbles(codes, MIDDLE))
    wide = edit.op("Cast", stored, to=ir.DataType.FLOAT, name="bytes")
    wide = edit.op("Reshape", apart(edit, wide), edit.shape("whole", [len(codes), -1]), name="wide")
    if codes.shape[1] % 2 == 0:
        return wide
    ends = [edit.shape(name, [at]) for name, at in (("first", 0), ("length", codes.shape[1]), ("columns", 1))]
    return edit.op("Slice", wide, *ends, name="codes")


def fits(codes: npt.NDArray[np.integer]) -> bool:
    """Whether codes fit into 4 bits."""
    return bool(codes.min() >= -MIDDLE and codes.max() < MIDDLE)


def apart(edit: Edit, wide: ir.Value) -> ir.Value:
    """The signed codes [..., bytes, 2] of bytes that hold two, given and returned as floats, exactly."""
    sixteen, last = edit.scalar("sixteen", 16.0, ir.DataType.FLOAT), edit.shape("last", [-1])
    share = edit.scalar("share", 1 / 16, ir.DataType.FLOAT)
    high = edit.op("Floor", edit.op("Mul", wide, share, name="share"), name="high")
    low = edit.op("Sub", wide, edit.op("Mul", high, sixteen, name="above"), name="low")
    halves = [edit.op("Unsqueeze", half, last, name="half") for half in (low, high)]
    pairs = edit.op("Concat", *halves, axis=-1, name="pairs")
    return edit.op("Sub", pairs, edit.scalar("middle", float(MIDDLE), ir.DataType.FLOAT), name="signed")
