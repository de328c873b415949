"""The stored form of an embedding table [V, D]: packed rows, which Gather can look up before they are decoded.

A table may be stored in parts: ranges of rows one after the other, each with bits and blocks of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from bct_onnx.forms.weights import float32, packed, unpack
from bct_onnx.graph import functions, tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.kernels import MICROSOFT
from bct_onnx.quant import Blocks
from bct_onnx.quant.packing import unpack as unpack_bytes


@dataclasses.dataclass(frozen=True)
class Table:
    """A quantized table [V, D], or a range of its rows, as constants of the graph; rows are scaled, blocks run along D.

    Attributes:
        codes: Packed uint8 [V, bytes], or int8 [V, D] with 8 bits.
        multipliers: Packed nibbles, uint8 [V, bytes], or None with 8 bits.
        scale: float16 or float32 [V].
        bits: Bits per code.
        block: Columns of a block.
        length: D.
        count: V.
    """

    codes: ir.Value
    multipliers: ir.Value | None
    scale: ir.Value
    bits: int
    block: int
    length: int
    count: int


def store(edit: Edit, name: str, blocks: Blocks) -> Table:
    """Register ``blocks``, which quantize the transpose [D, V] of a table, as the rows of that table; packed codes are
    packed along those, with an offset."""
    bits, (length, count) = blocks.scheme.bits, blocks.shape
    scale = edit.constant(f"{name}.scale", blocks.scale)
    if blocks.multipliers is None:
        codes = edit.constant(f"{name}.codes", np.ascontiguousarray(blocks.codes.T))
        return Table(codes, None, scale, bits, length, length, count)
    if blocks.packed is not None:
        codes = edit.constant(f"{name}.codes", blocks.codes.T)
    else:
        codes = packed(edit, f"{name}.codes", blocks.codes.T, bits)
    multipliers = packed(edit, f"{name}.multipliers", blocks.multipliers.T, 4)
    return Table(codes, multipliers, scale, bits, blocks.scheme.block_shape[0], length, count)


def lookup(model: ir.Model, edit: Edit, parts: Sequence[Table], indices: ir.Value | None) -> ir.Value:
    """Write the lookup of rows of a table that is stored in ``parts``; float32 [..., D].

    Each part is asked for all rows, some row of its own standing in for those that it does not have.
    """
    if len(parts) == 1:
        return _rows(model, edit, parts[0], indices)
    stops = np.cumsum([part.count for part in parts]).tolist()
    ends = [*stops[:-1], np.iinfo(np.int64).max]  # what is beyond the table goes to its last part, and fails there
    domain, found = functions.use(model, "RowsWithin"), None
    for part, stop, end in zip(parts, stops, ends, strict=True):
        limits = {"start": stop - part.count, "stop": end, "total": stops[-1]}
        local = edit.op("RowsWithin", indices, domain=domain, outputs=2, **limits)
        inside = edit.made[-1].outputs[1]
        rows = _rows(model, edit, part, local)
        found = rows if found is None else edit.op("Where", inside, rows, found, name="rows")
    assert found is not None
    return found


def _rows(model: ir.Model, edit: Edit, table: Table, indices: ir.Value | None) -> ir.Value:
    constants: list[ir.Value | None] = [table.codes, table.scale, indices]
    name, options = "GatherRows", dict[str, Any]()
    if table.multipliers is not None:
        constants.insert(1, table.multipliers)
        blocks = -(-table.length // table.block)
        options = {"length": [table.length], "block": table.block, "blocks": [blocks], "offset": 1 << (table.bits - 1)}
        name = "GatherPlanes" if table.bits == 3 else "GatherBlocks"
        if table.bits != 3:
            options["bits"] = table.bits
    return edit.op(name, *constants, domain=functions.use(model, name), **options)


def to_runtime(model: ir.Model, lookup: ir.Node) -> str:
    """Give a lookup of ours, ``GatherBlocks`` or ``GatherPlanes``, to ONNX Runtime's own operator; why not, if that
    cannot be."""
    if lookup.op_type == "GatherPlanes":
        return "GatherBlockQuantized has no 3-bit codes; the rows are decoded by standard operators"
    bits, block = lookup.attributes["bits"].as_int(), lookup.attributes["block"].as_int()
    length = lookup.attributes["length"].as_ints()[0]
    if block < 16 or block & (block - 1) or length % (8 // bits):
        return f"GatherBlockQuantized takes blocks of a power of two from 16, not {block} of {length}"
    codes, multipliers, scale, indices = lookup.inputs
    if tensors.is_constant_expression(indices):
        return "standard operators decode all of its rows once, at load; the runtime's own would each time"
    edit = Edit(lookup)
    scales = block_scales(model, edit, multipliers, scale, list(lookup.attributes["blocks"].as_ints()))
    options: dict[str, Any] = {"bits": bits, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
    rows = edit.op("GatherBlockQuantized", codes, indices, scales, domain=MICROSOFT, **options)
    edit.replace(lookup.outputs[0], rows)
    return ""


def block_scales(
    model: ir.Model, edit: Edit, multipliers: ir.Value | None, scale: ir.Value | None, blocks: list[int]
) -> ir.Value:
    """Float scales [V, blocks] of a table, from its packed multipliers and its scales: made when a session is created.

    What only lookups use is stored anew as INT4 and as a column, since the functions and operators that bring it into
    these forms at load take more bytes than a small table. What a tied output layer unpacks is left to that; there are
    no casts of INT4 below opset 21.
    """
    assert multipliers is not None and scale is not None
    if model.opset_imports.get("", 0) >= 21 and all(use.node.op_type == "GatherBlocks" for use in multipliers.uses()):
        codes = unpack_bytes(tensors.array(multipliers), 4, blocks[0], axis=-1)
        stem = (multipliers.name or "table").removesuffix(".multipliers")
        small = edit.constant(f"{stem}.block_multipliers", codes.astype(np.int8) - 8, ir.DataType.INT4)
        row_scale = float32(edit, edit.constant(f"{stem}.row_scale", tensors.array(scale)[:, None]))
    else:
        domain = functions.use(model, "Unpack")
        small = edit.op("Unpack", multipliers, domain=domain, bits=4, length=blocks, offset=8, name="multipliers")
        row_scale = edit.op("Unsqueeze", float32(edit, scale), edit.shape("last", [-1]))
    factors = edit.op("Cast", small, to=ir.DataType.FLOAT, name="factors")
    return edit.op("Mul", factors, row_scale, name="block_scales")


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
