"""Lookups in a table of few bits that any runtime computes alike: packed codes are gathered, and decoded as floats.

Two codes of 4 bits in a byte are its floor of a sixteenth and the rest, exactly. OpenVINO 2026.4 gives wrong numbers
for ``BitShift``, silently, and decodes 4-bit tensors only whole.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.forms import folded, packed
from bct_onnx.graph.edit import Edit
from bct_onnx.quant import Blocks
from bct_onnx.quant.packing import pack_nibbles


def lookup(edit: Edit, name: str, blocks: Blocks, indices: ir.Value | None) -> ir.Value:
    """Write the lookup of rows of the table whose transpose [D, V] ``blocks`` quantize; float32 [..., D]."""
    codes, scales = _rows(blocks)
    per_block, length = codes.shape[1] // scales.shape[1], blocks.shape[0]
    is_packed = folded.fits(codes) and per_block % 2 == 0
    stored = edit.constant(f"{name}.rows", pack_nibbles(codes, folded.MIDDLE) if is_packed else codes)
    wide = edit.op("Cast", edit.op("Gather", stored, indices, axis=0, name="codes"), to=ir.DataType.FLOAT, name="wide")
    values = folded.apart(edit, wide) if is_packed else wide
    leading = edit.op("Shape", indices, name="leading")
    grid = edit.op("Concat", leading, edit.shape("grid", [scales.shape[1], per_block]), axis=0, name="grid")
    steps = edit.op("Gather", edit.constant(f"{name}.scales", scales), indices, axis=0, name="scales")
    steps = edit.op("Unsqueeze", packed.float32(edit, steps), edit.shape("last", [-1]), name="steps")
    rows = edit.op("Mul", edit.op("Reshape", values, grid, name="blocks"), steps, name="scaled")
    flat = edit.op("Concat", leading, edit.shape("width", [codes.shape[1]]), axis=0, name="flat")
    rows = edit.op("Reshape", rows, flat, name="rows")
    if length == codes.shape[1]:
        return rows
    first, last = edit.shape("first", [0]), edit.shape("last", [-1])
    return edit.op("Slice", rows, first, edit.shape("length", [length]), last, name="row")


def _rows(blocks: Blocks) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]]:
    """Codes [V, whole blocks] and scales [V, blocks]."""
    length, count = blocks.shape
    if blocks.multipliers is None:
        return np.ascontiguousarray(blocks.codes.T), blocks.scale.reshape(count, 1)
    block = blocks.scheme.block_shape[0]
    codes = np.pad(blocks.codes.T, ((0, 0), (0, -length % block)))
    return np.ascontiguousarray(codes), blocks.steps().T.astype(np.float16)
