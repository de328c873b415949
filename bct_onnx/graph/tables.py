"""The stored form of an embedding table [V, D]: packed rows, which Gather can look up before they are decoded."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from bct_onnx.graph import functions
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.weights import float32, packed, unpack
from bct_onnx.quant import Blocks


@dataclasses.dataclass(frozen=True)
class Table:
    """A quantized table [V, D] as constants of the graph; rows are scaled, blocks run along D.

    Attributes:
        codes: Packed uint8 [V, bytes], or int8 [V, D] with 8 bits.
        multipliers: Packed nibbles, uint8 [V, bytes], or None with 8 bits.
        scale: float16 or float32 [V].
        bits: Bits per code.
        block: Columns of a block.
        length: D.
    """

    codes: ir.Value
    multipliers: ir.Value | None
    scale: ir.Value
    bits: int
    block: int
    length: int


def store(edit: Edit, name: str, blocks: Blocks, length: int) -> Table:
    """Register ``blocks``, which quantize the transpose of a table [V, D], as the rows of that table."""
    bits = blocks.scheme.bits
    scale = edit.constant(f"{name}.scale", blocks.scale)
    if blocks.multipliers is None:
        codes = edit.constant(f"{name}.codes", np.ascontiguousarray(blocks.codes.T))
        return Table(codes, None, scale, bits, length, length)
    codes = packed(edit, f"{name}.codes", blocks.codes.T, bits)
    multipliers = packed(edit, f"{name}.multipliers", blocks.multipliers.T, 4)
    return Table(codes, multipliers, scale, bits, blocks.scheme.block_shape[0], length)


def as_weight(model: ir.Model, edit: Edit, table: Table) -> ir.Value:
    """Write a table [V, D] as the weight [D, V] that a tied output layer uses; the codes are the table's own."""
    length, columns = table.length, table.block
    if table.multipliers is None:
        rows = edit.op("DequantizeLinear", table.codes, float32(edit, table.scale), axis=0, name="table")
    else:
        codes = unpack(model, edit, table.codes, table.bits, length)
        domain = functions.use(model, "Unpack")
        blocks = -(-length // columns)
        small = edit.op(
            "Unpack", table.multipliers, domain=domain, bits=4, length=[blocks], offset=8, name="multipliers"
        )
        scale = edit.op("DequantizeLinear", small, float32(edit, table.scale), axis=0, name="block_scales")
        rows = edit.op("DequantizeLinear", codes, scale, axis=1, block_size=columns, name="table")
    return edit.op("Transpose", rows, perm=[1, 0], name="weight")
