"""An embedding table [V, D] in few bits: packed rows, which Gather can look up before they are decoded.

    GatherRows(codes, scale, indices)                    8 bits, one scale per row
    GatherBlocks(codes, multipliers, scale, indices)     blocks along the row; 3 bits: GatherPlanes; 5, 6: GatherSlices

A table may be stored in parts: ranges of rows one after the other, each with bits and blocks of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.base import Declined, Site
from bct_onnx.forms import packed
from bct_onnx.graph import functions, tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.kernels import MICROSOFT
from bct_onnx.graph.neighbours import op_types
from bct_onnx.quant import Blocks, Scheme

BLOCKED = ("ai.bct::GatherBlocks", "ai.bct::GatherPlanes", "ai.bct::GatherSlices")
"""Operators that look rows up in a table with blocks."""

LOOKUPS = (*BLOCKED, "ai.bct::GatherRows")
"""Operators that look rows up in a stored table."""


@dataclasses.dataclass(frozen=True)
class StoredTable:
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

    @property
    def name(self) -> str:
        """Of the table that was stored: what its constants are called, without their endings."""
        return (self.codes.name or "table").removesuffix(".codes")

    @property
    def blocks_per_row(self) -> int:
        """How many blocks a row has, the last of which may be shorter."""
        return -(-self.length // self.block)

    def blocks(self) -> Blocks:
        """The numbers of the transpose [D, V], whose columns have one scale each."""
        scheme, shape, scale = Scheme(self.bits, self.block), (self.length, self.count), tensors.array(self.scale)
        if self.multipliers is None:
            return Blocks(scheme, shape, tensors.array(self.codes).T, None, scale)
        codes = packed.unpacked(self.codes, self.bits, self.length, 1 << (self.bits - 1))
        multipliers = packed.unpacked(self.multipliers, 4, self.blocks_per_row, 8)
        return Blocks(scheme, shape, codes.T, multipliers.T, scale)

    def rewrite(self, codes: npt.NDArray[Any], scale: npt.NDArray[Any]) -> None:
        """Put other codes [D, V], of the same bits, and other scales of rows [V] into the constants of the graph."""
        packed.rewrite(self.codes, codes.T, self.bits)
        assert self.scale.dtype is not None
        tensors.refill(self.scale, scale.astype(self.scale.dtype.numpy()))

    def lookup(self, model: ir.Model, edit: Edit, indices: ir.Value | None) -> ir.Value:
        """Write the lookup of rows; float32 [..., D]."""
        constants: list[ir.Value | None] = [self.codes, self.scale, indices]
        name, options = "GatherRows", dict[str, Any]()
        if self.multipliers is not None:
            constants.insert(1, self.multipliers)
            options = {"length": [self.length], "block": self.block, "blocks": [self.blocks_per_row]}
            options["offset"] = 1 << (self.bits - 1)
            suffix, packing = packed.layout(self.bits, self.length)
            name = f"Gather{suffix or 'Blocks'}"
            options |= packing
        return edit.op(name, *constants, domain=functions.use(model, name), **options)

    def as_weight(self, model: ir.Model, edit: Edit, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        """Write the table as the weight [D, V] that a tied output layer uses; the codes are the table's own.

        Bytes are turned before they are decoded: ONNX Runtime 1.23 moves the decoding of a matrix behind a Transpose,
        and forgets that its codes have a sign.
        """
        step = packed.float32(edit, self.scale)
        if self.multipliers is None:
            columns = edit.op("Transpose", self.codes, perm=[1, 0], name="columns")
            return packed.typed(edit, edit.op("DequantizeLinear", columns, step, axis=1, name="weight"), dtype)
        codes = packed.unpack(model, edit, self.codes, self.bits, self.length)
        small = _unpacked_multipliers(model, edit, self.multipliers, self.blocks_per_row)
        scale = edit.op("DequantizeLinear", small, step, axis=0, name="block_scales")
        rows = edit.op("DequantizeLinear", codes, scale, axis=1, block_size=self.block, name="table")
        return packed.typed(edit, edit.op("Transpose", rows, perm=[1, 0], name="weight"), dtype)


def write(edit: Edit, name: str, blocks: Blocks) -> StoredTable:
    """Register ``blocks``, which quantize the transpose [D, V] of a table, as the rows of that table; packed codes are
    packed along those, with an offset."""
    bits, (length, count) = blocks.scheme.bits, blocks.shape
    scale = edit.constant(f"{name}.scale", blocks.scale)
    if blocks.multipliers is None:
        codes = edit.constant(f"{name}.codes", np.ascontiguousarray(blocks.codes.T))
        return StoredTable(codes, None, scale, bits, length, length, count)
    if blocks.packed is not None:
        codes = edit.constant(f"{name}.codes", blocks.codes.T)
    else:
        codes = packed.write(edit, f"{name}.codes", blocks.codes.T, bits)
    multipliers = packed.write(edit, f"{name}.multipliers", blocks.multipliers.T, 4)
    return StoredTable(codes, multipliers, scale, bits, blocks.scheme.block_shape[0], length, count)


def read(lookup: ir.Node) -> StoredTable | None:
    """The table that a lookup of ours reads its rows from; None for any other node."""
    if f"{lookup.domain}::{lookup.op_type}" not in LOOKUPS:
        return None
    codes, *multipliers, scale, _ = lookup.inputs
    assert codes is not None and codes.shape is not None and scale is not None
    count, width = codes.shape.numpy()
    if not multipliers:
        return StoredTable(codes, None, scale, 8, width, width, count)
    bits, block = packed.bits_of(lookup), lookup.attributes["block"].as_int()
    length = lookup.attributes["length"].as_ints()[0]
    return StoredTable(codes, multipliers[0], scale, bits, block, length, count)


def lookup(model: ir.Model, edit: Edit, parts: Sequence[StoredTable], indices: ir.Value | None) -> ir.Value:
    """Write the lookup of rows of a table that is stored in ``parts``; float32 [..., D].

    Each part is asked for all rows, some row of its own standing in for those that it does not have.
    """
    if len(parts) == 1:
        return parts[0].lookup(model, edit, indices)
    stops = np.cumsum([part.count for part in parts]).tolist()
    ends = [*stops[:-1], np.iinfo(np.int64).max]  # what is beyond the table goes to its last part, and fails there
    domain, rows = functions.use(model, "RowsWithin"), None
    for part, stop, end in zip(parts, stops, ends, strict=True):
        limits = {"start": stop - part.count, "stop": end, "total": stops[-1]}
        local = edit.op("RowsWithin", indices, domain=domain, outputs=2, **limits)
        inside = edit.made[-1].outputs[1]
        own = part.lookup(model, edit, local)
        rows = own if rows is None else edit.op("Where", inside, own, rows, name="rows")
    assert rows is not None
    return rows


def lowered(model: ir.Model, lookup: ir.Node) -> Site | Declined:
    """Give a lookup of ours to ONNX Runtime's own operator, or say why that cannot be."""
    name = lookup.name or lookup.op_type
    if reason := _to_runtime(model, lookup):
        return Declined(name, reason)
    return Site(name, ("GatherBlocks",), "rows decoded by the runtime's own operator")


def _to_runtime(model: ir.Model, lookup: ir.Node) -> str:
    table, indices = read(lookup), lookup.inputs[-1]
    assert table is not None
    if table.multipliers is None or table.bits not in (4, 8):
        why = "of ONNX Runtime 1.23 " if table.bits == 2 else ""
        return f"GatherBlockQuantized {why}has no {table.bits}-bit codes; the rows are decoded by standard operators"
    block = table.block
    if block < 16 or block & (block - 1) or table.length % (8 // table.bits):
        return f"GatherBlockQuantized takes blocks of a power of two from 16, not {block} of {table.length}"
    if tensors.is_constant_expression(indices):
        return "standard operators decode all of its rows once, at load; the runtime's own would each time"
    edit = Edit(lookup)
    scales = _block_scales(model, edit, table)
    options: dict[str, Any] = {"bits": table.bits, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
    rows = edit.op("GatherBlockQuantized", table.codes, indices, scales, domain=MICROSOFT, **options)
    edit.replace(lookup.outputs[0], rows)
    return ""


def _block_scales(model: ir.Model, edit: Edit, table: StoredTable) -> ir.Value:
    """Float scales [V, blocks] of a table, from its packed multipliers and its scales: made when a session is created.

    What only lookups use is stored anew as INT4 and as a column, since the functions and operators that bring it into
    these forms at load take more bytes than a small table. What a tied output layer unpacks is left to that; there are
    no casts of INT4 below opset 21.
    """
    multipliers = table.multipliers
    assert multipliers is not None
    if model.opset_imports.get("", 0) >= 21 and set(op_types(multipliers.consumers())) <= {"GatherBlocks"}:
        codes = packed.unpacked(multipliers, 4, table.blocks_per_row, 8)
        stem = (multipliers.name or "table").removesuffix(".multipliers")
        small = edit.constant(f"{stem}.block_multipliers", codes, ir.DataType.INT4)
        row_scale = packed.float32(edit, edit.constant(f"{stem}.row_scale", tensors.array(table.scale)[:, None]))
    else:
        small = _unpacked_multipliers(model, edit, multipliers, table.blocks_per_row)
        row_scale = edit.op("Unsqueeze", packed.float32(edit, table.scale), edit.shape("last", [-1]))
    factors = edit.op("Cast", small, to=ir.DataType.FLOAT, name="factors")
    return edit.op("Mul", factors, row_scale, name="block_scales")


def _unpacked_multipliers(model: ir.Model, edit: Edit, multipliers: ir.Value, blocks: int) -> ir.Value:
    domain = functions.use(model, "Unpack")
    return edit.op("Unpack", multipliers, domain=domain, bits=4, length=[blocks], offset=8, name="multipliers")
