"""Lookups in a table of few bits that any runtime computes alike: packed codes are gathered, and decoded as floats.

`bct_onnx.forms.folded` says how codes are packed. OpenVINO 2026.4 gives wrong numbers for ``BitShift``, silently, and
decodes 4-bit tensors only whole.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from bct_onnx.forms import folded, packed
from bct_onnx.graph.edit import Edit
from bct_onnx.quant import Blocks
from bct_onnx.quant.scheme import MULTIPLIER_BITS


def lookup(edit: Edit, name: str, blocks: Blocks, indices: ir.Value | None) -> ir.Value:
    """Write the lookup of rows of the table whose transpose [D, V] ``blocks`` quantize; float32 [..., D]."""

    def take(constant: ir.Value) -> ir.Value:
        return edit.op("Gather", constant, indices, axis=0, name="taken")

    last = edit.shape("last", [-1])
    codes = np.ascontiguousarray(blocks.codes.T)
    scale = take(edit.constant(f"{name}.row_scale", blocks.scale))
    steps = edit.op("Unsqueeze", packed.float32(edit, scale), last, name="steps")
    if blocks.multipliers is None:
        wide = edit.op("Cast", take(edit.constant(f"{name}.rows", codes)), to=ir.DataType.FLOAT, name="wide")
        return edit.op("Mul", wide, steps, name="rows")
    leading = edit.op("Shape", indices, name="leading")
    flat = edit.op("Concat", leading, last, axis=0, name="flat")
    values = folded.integers(edit, f"{name}.rows", codes, blocks.scheme.bits, flat, take)
    multipliers = np.ascontiguousarray(blocks.multipliers.T)
    factors = folded.integers(edit, f"{name}.row_multipliers", multipliers, MULTIPLIER_BITS, flat, take)
    steps = edit.op("Mul", factors, steps, name="block_scales")
    length, block = blocks.shape[0], blocks.scheme.block_shape[0]
    shared = math.gcd(length, block)  # values beside each other that surely have one scale
    if shared != block:
        places = edit.shape("groups", (np.arange(length // shared) * shared // block).tolist())
        steps = edit.op("Gather", steps, places, axis=-1, name="by_group")
    grid = edit.op("Concat", leading, edit.shape("grid", [length // shared, shared]), axis=0, name="grid")
    groups = edit.op("Reshape", values, grid, name="groups")
    rows = edit.op("Mul", groups, edit.op("Unsqueeze", steps, last, name="steps"), name="scaled")
    return edit.op("Reshape", rows, flat, name="rows")
