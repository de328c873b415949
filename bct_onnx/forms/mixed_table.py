"""An embedding table [V, D] whose rows have widths of their own, as constants of a graph and the lookup of its rows.

    GatherMixed(places, ones, twos, fours, eights, scale, indices)

`bct_onnx.quant.mixed` says how codes are put into slices of 1, 2, 4 and 8 bits.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.graph import functions, tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.neighbours import provided
from bct_onnx.quant import Blocks, Error, Scheme, mixed

LOOKUP = "ai.bct::GatherMixed"
"""The operator that looks rows up in such a table."""


@dataclasses.dataclass(frozen=True)
class MixedTable:
    """A table [V, D] in mixed widths.

    Attributes:
        places: Where each row lies, uint16 or uint32 [V].
        ones: Slices of 1 bit, packed, uint8 [rows, D / 8]; `twos` and `fours` likewise.
        twos: Slices of 2 bits.
        fours: Slices of 4 bits.
        eights: Levels of 8 bits, int8 [rows + 1, D]; zeros in the last row, which stands for that of any other width.
        scale: float16 or float32 [V].
        ends: The place behind the last row of each width but the last, in their order.
        length: D.
    """

    places: ir.Value
    ones: ir.Value
    twos: ir.Value
    fours: ir.Value
    eights: ir.Value
    scale: ir.Value
    ends: tuple[int, ...]
    length: int

    @property
    def count(self) -> int:
        """V."""
        return int(tensors.array(self.places).size)

    @property
    def name(self) -> str:
        """Of the table that was stored: what its constants are called, without their endings."""
        return (self.places.name or "table").removesuffix(".places")

    def lookup(self, model: ir.Model, edit: Edit, indices: ir.Value | None) -> ir.Value:
        """Write the lookup of rows; float32 [..., D]."""
        constants = (self.places, self.ones, self.twos, self.fours, self.eights, self.scale)
        limits: dict[str, Any] = dict(zip(_LIMITS, self.ends, strict=True))
        domain = functions.use(model, "GatherMixed")
        return edit.op("GatherMixed", *constants, indices, domain=domain, length=[self.length], **limits)

    def rows(self) -> mixed.MixedRows:
        """The rows as they are stored; their error is not known any more."""
        places = tensors.array(self.places).astype(np.int64)
        widths = np.asarray(mixed.ORDER, np.uint8)[np.searchsorted(self.ends, places, side="right")]
        slices = {1: tensors.array(self.ones), 2: tensors.array(self.twos), 4: tensors.array(self.fours)}
        slices[8] = _flipped(tensors.array(self.eights)[:-1])
        return mixed.MixedRows(widths, slices, tensors.array(self.scale), Error())

    def blocks(self) -> Blocks:
        """The numbers of the transpose [D, V] as int8 codes with one scale per column, exactly."""
        rows = self.rows()
        codes, scale = mixed.levels(rows, self.length)
        return Blocks(Scheme(8, self.length), (self.length, len(rows.widths)), codes.T, None, scale)

    def rewrite(self, codes: npt.NDArray[np.uint8], scale: npt.NDArray[Any]) -> None:
        """Put other codes [D, V] of the same widths, and other scales [V], into the constants of the graph."""
        slices = mixed.packed(codes.T, self.rows().widths)
        for bits, constant in {1: self.ones, 2: self.twos, 4: self.fours}.items():
            tensors.refill(constant, slices[bits])
        tensors.refill(self.eights, _with_zeros(slices[8]))
        assert self.scale.dtype is not None
        tensors.refill(self.scale, scale.astype(self.scale.dtype.numpy()))


_LIMITS = tuple(f"after{width}" for width in mixed.ORDER[:-1])


def write(edit: Edit, name: str, rows: mixed.MixedRows, length: int) -> MixedTable:
    """Register rows of mixed widths as constants."""
    return MixedTable(
        places=edit.constant(f"{name}.places", rows.places),
        ones=edit.constant(f"{name}.ones", rows.slices[1]),
        twos=edit.constant(f"{name}.twos", rows.slices[2]),
        fours=edit.constant(f"{name}.fours", rows.slices[4]),
        eights=edit.constant(f"{name}.eights", _with_zeros(rows.slices[8])),
        scale=edit.constant(f"{name}.scale", rows.scale),
        ends=tuple(mixed.ends(rows.widths)[:-1]),
        length=length,
    )


def read(lookup: ir.Node) -> MixedTable | None:
    """The table that a lookup of `LOOKUP` reads its rows from; None for any other node."""
    if f"{lookup.domain}::{lookup.op_type}" != LOOKUP:
        return None
    places, ones, twos, fours, eights, scale = provided(lookup.inputs[:6])
    ends = tuple(lookup.attributes[name].as_int() for name in _LIMITS)
    return MixedTable(places, ones, twos, fours, eights, scale, ends, lookup.attributes["length"].as_ints()[0])


def _with_zeros(codes: mixed.Codes) -> npt.NDArray[np.int8]:
    """Levels from codes of 8 bits, int8, and a row of zeros behind them."""
    return np.concatenate([_flipped(codes).view(np.int8), np.zeros((1, codes.shape[1]), np.int8)])


def _flipped(codes: npt.NDArray[Any]) -> mixed.Codes:
    """Bytes whose value is 128 more or less, modulo 256."""
    return np.asarray(codes).view(np.uint8) ^ np.uint8(128)
