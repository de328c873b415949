"""Rows of a table in as many bits as their use is worth: 1, 2, 3, 4, 6 or 8, with one scale per row.

A code ``c`` of ``b`` bits stands for ``scale * (c - (2**b - 1) / 2)``: the levels lie beside zero, so that one bit is a
sign, and few bits lose less than with a level at zero (two bits on normal values: 0.118 of their power, not 0.145).
Of 8 bits it stands for ``scale * (c - 128)``. These are for a few rows that are in every text, as [CLS] and the full
stop: trained encoders give them values that are ten times as large as the row's others, which 6 bits cannot hold.

Codes are stored in slices of 1, 2, 4 and 8 bits, each of which divides a byte: 3 bits are a slice of 1 above one of 2,
6 bits one of 4 above one of 2. Rows lie in the order `ORDER` of their widths, in which the rows that have a slice of
one kind are beside one another; the place of each row is stored.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bct_onnx.errors import UsageError
from bct_onnx.quant.blocks import stored
from bct_onnx.quant.error import Error
from bct_onnx.quant.packing import pack, unpack
from bct_onnx.quant.row_rounding import RowRounding
from bct_onnx.quant.scheme import Scheme

ORDER = (1, 3, 2, 6, 4, 8)
"""Widths in the order in which their rows are stored."""

SLICES = {1: {1: 0, 3: 2}, 2: {3: 0, 2: 0, 6: 0}, 4: {6: 2, 4: 0}, 8: {8: 0}}
"""Bits of a slice: the widths that have one, and the bit of the code at which it begins."""

STEPS = {2: 0.9957, 3: 0.586, 4: 0.3352, 6: 0.1041, 8: 0.0308}
"""Steps of least error for normal values of power 1 (Max 1960); one bit has its own in closed form."""

TRIED = (0.85, 1.0, 1.2)
"""Factors on these steps that the search for each row starts from."""

ENDS = {4: (0.4, 0.7), 6: (0.4, 0.7, 1.0), 8: (0.7, 1.0)}
"""The same for widths that may hold a row's largest values: where codes end, as a share of the largest."""

AT_ONCE = 1 << 22
"""Values encoded together."""

Widths = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float32]

_RUN = re.compile(r"([123468])(?:\((\d+)\))?")


@dataclass(frozen=True, eq=False)
class MixedRows:
    """A table [V, D] in mixed widths; D is a multiple of 8.

    Attributes:
        widths: Bits of each row, uint8 [V].
        slices: By their bits, packed codes, uint8 [rows that have one, D * bits / 8]; a row of zeros where none has,
            but for 8 bits.
        scale: float16 or float32 [V].
        error: Of all values.
    """

    widths: Widths
    slices: dict[int, Codes]
    scale: npt.NDArray[Any]
    error: Error

    @property
    def places(self) -> npt.NDArray[Any]:
        """Where each row lies, uint16 [V], or uint32 where there are more than 65,536 rows."""
        places = np.empty(len(self.widths), np.int64)
        places[_order(self.widths)] = np.arange(len(self.widths))
        return places.astype(np.uint16 if len(places) <= 1 << 16 else np.uint32)


def quantize(table: npt.NDArray[Any], widths: Widths, scheme: Scheme, rounding: RowRounding | None = None) -> MixedRows:
    """Store each row [D] of a table [V, D] in its width; ``rounding`` goes by what errors do to the outputs.

    >>> rows = quantize(np.eye(2, 8, dtype=np.float32), np.array([1, 6], np.uint8), Scheme(4, 32))
    >>> rows.places, {bits: codes.shape for bits, codes in rows.slices.items()}, rows.scale.shape
    (array([0, 1], dtype=uint16), {1: (1, 1), 2: (1, 2), 4: (1, 4), 8: (0, 8)}, (2,))
    """
    order, length, begin, error = _order(widths), table.shape[1], starts(widths), Error()
    slices = _empty(widths, length)
    scale = np.zeros(len(table), np.float64)
    for at, width in _strips(widths[order], length):
        rows = table[order[at]].astype(np.float32)
        codes, scale[order[at]] = encode(rows, width)
        if rounding is not None:
            nearest = functools.partial(_nearest, width=width)
            levels, scale[order[at]] = rounding.rounded(rows, scale[order[at]], nearest)
            codes = (levels + np.float32(middle(width))).astype(np.uint8)
        error += Error.of(rows, decode(codes, scale[order[at]], width))
        _put(slices, begin, codes, at, width)
    return MixedRows(widths, slices, stored(scale, scheme), error)


def packed(codes: Codes, widths: Widths) -> dict[int, Codes]:
    """The slices of a table whose codes are known.

    >>> rows = quantize(np.eye(3, 8, dtype=np.float32), np.array([1, 6, 3], np.uint8), Scheme(4, 32))
    >>> again = packed(unpacked(rows, 8), rows.widths)
    >>> all((again[bits] == rows.slices[bits]).all() for bits in (1, 2, 4))
    True

    Args:
        codes: uint8 [V, D].
        widths: Bits of each row, uint8 [V].
    """
    order, begin, slices = _order(widths), starts(widths), _empty(widths, codes.shape[1])
    for at, width in _strips(widths[order], codes.shape[1]):
        _put(slices, begin, codes[order[at]], at, width)
    return slices


def unpacked(table: MixedRows, length: int) -> Codes:
    """The codes of all rows, uint8 [V, length]."""
    order, begin = _order(table.widths), starts(table.widths)
    whole = np.empty((len(order), length), np.uint8)
    for at, width in _strips(table.widths[order], length):
        codes = np.zeros((at.stop - at.start, length), np.uint8)
        for bits, kinds in SLICES.items():
            if width in kinds:
                slices = table.slices[bits][at.start - begin[bits] : at.stop - begin[bits]]
                codes |= unpack(slices, bits, length, axis=-1) << np.uint8(kinds[width])
        whole[order[at]] = codes
    return whole


def starts(widths: Widths) -> dict[int, int]:
    """The place of the first row that has a slice of so many bits."""
    behind = ends(widths)
    return {1: 0, 2: behind[0], 4: behind[2], 8: behind[4]}


def ends(widths: Widths) -> list[int]:
    """The place behind the last row of each width of `ORDER`.

    >>> ends(np.array([1, 6, 3, 1], np.uint8))
    [2, 3, 3, 4, 4, 4]
    """
    return list(itertools.accumulate(counted(widths).values()))


def counted(widths: Widths) -> dict[int, int]:
    """How many rows have each width of `ORDER`."""
    return {width: int(np.count_nonzero(widths == width)) for width in ORDER}


def encode(rows: Float, width: int) -> tuple[Codes, npt.NDArray[np.float64]]:
    """Codes uint8 [n, D] and scales [n] of least squared error of rows [n, D], as far as a local search finds them."""
    if width == 1:
        return (rows >= 0).astype(np.uint8), 2 * np.abs(rows).mean(axis=1, dtype=np.float64)
    power = np.sqrt(np.mean(np.square(rows), axis=1, dtype=np.float64))
    best, scale = np.full(len(rows), np.inf), np.zeros(len(rows))
    largest = np.abs(rows).max(axis=1).astype(np.float64)
    tried = [STEPS[width] * factor * power for factor in TRIED]
    tried += [end * largest / (1 << (width - 1)) for end in ENDS.get(width, ())]
    for start in tried:
        step = start
        for _ in range(2):  # the step of least error for the codes that the last one gave
            levels = _levels(rows, step, width)
            step = np.einsum("nd,nd->n", rows, levels, dtype=np.float64)
            step /= np.maximum(np.einsum("nd,nd->n", levels, levels, dtype=np.float64), 1e-30)
        lost = rows - _levels(rows, step, width) * step[:, None].astype(np.float32)
        error = np.einsum("nd,nd->n", lost, lost, dtype=np.float64)
        scale = np.where(error < best, step, scale)
        best = np.minimum(error, best)
    return (_levels(rows, scale, width) + np.float32(middle(width))).astype(np.uint8), scale


def decode(codes: Codes, scale: npt.NDArray[Any], width: int) -> Float:
    """Rows float32 [n, D] from their codes and scales."""
    return (codes.astype(np.float32) - np.float32(middle(width))) * scale[:, None].astype(np.float32)


def levels(table: MixedRows, length: int) -> tuple[npt.NDArray[np.int8], Float]:
    """All rows as integers, int8 [V, length], and their scales, float32 [V]: twice the levels, but of 8 bits once."""
    twice = table.widths < 8
    highest = ((1 << table.widths.astype(np.int16)) - 1).astype(np.int16)
    codes = unpacked(table, length).astype(np.int16)
    whole = np.where(twice[:, None], 2 * codes - highest[:, None], codes - 128)
    scale = np.asarray(table.scale, np.float32)
    return whole.astype(np.int8), np.where(twice, scale / 2, scale)


def row_bytes(width: int, length: int, count: int) -> int:
    """Bytes that a row takes in a table of ``count`` rows: codes, scale and place.

    >>> row_bytes(3, 384, 30522)
    148
    """
    return length * width // 8 + 2 + (2 if count <= 1 << 16 else 4)


def nbytes(widths: Widths, length: int) -> int:
    """Bytes that a table takes, with the zeros that stand in for rows of 8 bits; those of the rows that stand in for
    slices of no row are not worth counting."""
    codes = sum(count * row_bytes(width, length, len(widths)) for width, count in counted(widths).items())
    return length + codes


def print_widths(widths: Widths) -> str:
    """Widths as text: a digit for each row, and how often in a row it comes where that is shorter.

    >>> print_widths(np.array([6, 3, 3, 1, 1, 1, 1, 1], np.uint8))
    '6331(5)'
    """
    edges = np.flatnonzero(np.diff(widths)) + 1
    text = []
    for run in np.split(widths, edges):
        text.append(str(run[0]) * len(run) if len(run) < 5 else f"{run[0]}({len(run)})")
    return "".join(text)


def parse_widths(text: str) -> Widths:
    """Inverse of `print_widths`.

    Raises:
        UsageError: It is no such text.

    >>> parse_widths("6331(5)").tolist()
    [6, 3, 3, 1, 1, 1, 1, 1]
    """
    if not text or _RUN.sub("", text):
        raise UsageError("widths of rows cannot be read", fix="write digits 1, 2, 3, 4, 6 and 8, such as 6(20)31(500)")
    digits, counts = zip(*_RUN.findall(text), strict=True)
    return np.repeat(list(map(int, digits)), [int(count or 1) for count in counts]).astype(np.uint8)


def describe(widths: Widths) -> str:
    """How many rows have which width.

    >>> describe(np.array([6, 1, 1], np.uint8))
    'rows by use: 2 of 1 bit, 1 of 6'
    """
    parts = [f"{count:,} of {width}" for width, count in sorted(counted(widths).items()) if count]
    first, *others = parts
    unit = "bit" if first.endswith(" 1") else "bits"
    return ", ".join([f"rows by use: {first} {unit}", *others])


def _empty(widths: Widths, length: int) -> dict[int, Codes]:
    """Slices without codes; a lookup needs a row to stand in where no row has one of a kind, but has one for 8 bits."""
    slices: dict[int, Codes] = {}
    for bits, kinds in SLICES.items():
        count = int(np.isin(widths, list(kinds)).sum())
        slices[bits] = np.zeros((max(1 if bits < 8 else 0, count), length * bits // 8), np.uint8)
    return slices


def _put(slices: dict[int, Codes], begin: dict[int, int], codes: Codes, at: slice, width: int) -> None:
    """Put the codes [n, D] of the rows at some places, all of one width, into their slices."""
    for bits, kinds in SLICES.items():
        if width in kinds:
            part = codes >> np.uint8(kinds[width]) & np.uint8((1 << bits) - 1)
            slices[bits][at.start - begin[bits] : at.stop - begin[bits]] = pack(part, bits, axis=-1)


def _levels(rows: Float, step: npt.NDArray[np.float64], width: int) -> Float:
    """The level of each value in steps, [n, D]: halves, from -(2**b - 1) / 2 on; of 8 bits from -128 on."""
    divisor: Float = np.where(step > 0, step, 1.0)[:, None].astype(np.float32)
    return _nearest(rows / divisor, width)


def _nearest(scaled: Float, width: int) -> Float:
    """The level nearest to each value that was divided by its row's step."""
    half = np.float32(1 << (width - 1))
    if width == 8:
        return np.clip(np.rint(scaled), -half, half - 1)
    return np.clip(np.floor(scaled), -half, half - 1) + np.float32(0.5)


def middle(width: int) -> float:
    """The code of zero: it lies between two codes, but for 8 bits."""
    return 128.0 if width == 8 else ((1 << width) - 1) / 2


def _order(widths: Widths) -> npt.NDArray[np.int64]:
    """Rows in the order in which they are stored, [V]."""
    rank = np.zeros(9, np.int64)
    rank[list(ORDER)] = np.arange(len(ORDER))
    return np.argsort(rank[widths], kind="stable")


def _strips(widths: Widths, length: int) -> Iterator[tuple[slice, int]]:
    """Places of some rows of one width, and that width, in order."""
    count = max(1, AT_ONCE // length)
    for width in ORDER:
        places = np.flatnonzero(widths == width)
        if len(places):
            for start in range(int(places[0]), int(places[-1]) + 1, count):
                yield slice(start, min(start + count, int(places[-1]) + 1)), width
