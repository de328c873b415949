"""How often each row of a table is going to be looked up, and the widths of its rows that are worth most.

A row that is looked up more often may take more bits: with expected lookups f and an error of D(b) times the row's
power, the widths that minimize ``sum f D(b) + price * bits`` are found row by row, for a range of prices.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from bct_onnx.quant import mixed
from bct_onnx.study.allocation.data import Counts

BINS = 96
"""Runs of neighbouring rows; in each of them rows that were never seen are as likely as those seen once tell."""

ELSEWHERE = 0.05
"""Share of the lookups that is expected of other texts, by the law of Zipf."""

ANYWHERE = 0.5
"""The same where nobody gave texts, and counted are those of ours."""

FIRST = 10
"""Ranks up to this one are alike: frequent rows have been counted."""

PRICES = 48
"""Prices of a bit for which widths are found."""

ENDS = 0.98, 0.25
"""Shares of the rows that have the least width at the highest price, and less than the last but one at the lowest."""

Vector = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Spread:
    """Widths for all rows of a table.

    Attributes:
        widths: uint8 [rows].
        bits: Stored bits of all.
        noise: Of the outputs.
    """

    widths: mixed.Widths
    bits: int
    noise: float


def shares(counts: Counts, elsewhere: float = ELSEWHERE, order: npt.NDArray[np.intp] | None = None) -> Vector:
    """The share of the lookups to be expected of each row, [rows].

    Rows seen once tell how many lookups go to rows that were not seen (Good 1953, Turing), here among neighbours, since
    vocabularies are sorted by frequency more or less. The share ``elsewhere`` goes by the row's number, for texts of
    other kinds.

    Args:
        counts: Lookups of each row, [rows].
        elsewhere: See above.
        order: Rows in another order, in which neighbours are still more alike (see `row_likeness`).

    >>> shares(np.array([6, 0, 1, 1])).round(3)
    array([0.743, 0.16 , 0.049, 0.049])
    """
    expected = np.maximum(counts - 0.75, 0.0)
    bounds = np.linspace(0, len(counts), min(len(counts), BINS) + 1).astype(np.intp)
    if len(counts) <= BINS:
        bounds = np.array([0, len(counts)])
    order = np.arange(len(counts)) if order is None else order
    for first, last in itertools.pairwise(bounds):
        rows = order[first:last]
        here = counts[rows]
        unseen = here == 0
        expected[rows[unseen]] = ((here == 1).sum() + 0.1) / (unseen.sum() + 1)
    expected += elsewhere * counts.sum() * _by_rank(counts)
    share: Vector = expected / max(expected.sum(), 1e-300)
    return share


def unseen_share(counted: Counts, held_back: Counts) -> float:
    """The share of some lookups that went to rows which the others never had."""
    return float(held_back[counted == 0].sum() / max(1, held_back.sum()))


def spreads(expected: Vector, length: int, kinds: Sequence[int], lost: Vector) -> Iterator[Spread]:
    """Widths for all rows, for one price of a bit after the other.

    Args:
        expected: Noise of each row if all of it were lost, [rows].
        length: Values of a row.
        kinds: Widths, rising.
        lost: Share of a row's power that is lost, [rows, kinds], or [1, kinds] for all of them.
    """
    bits = np.array([8 * mixed.row_bytes(width, length, len(expected)) for width in kinds], np.float64)
    slopes = -np.diff(lost.mean(axis=0)) / np.diff(bits)
    positive = expected[expected > 0]
    if not len(positive):
        return
    highest, lowest = np.quantile(positive, ENDS)
    prices = np.geomspace(highest * slopes.max(), lowest * slopes[-2], PRICES)
    last = b""
    for price in prices:
        best = (expected[:, None] * lost + price * bits).argmin(axis=1)
        widths = np.asarray(kinds, np.uint8)[best]
        if widths.tobytes() != last:
            last = widths.tobytes()
            left = np.take_along_axis(np.broadcast_to(lost, (len(best), len(kinds))), best[:, None], axis=1)[:, 0]
            yield Spread(widths, int(bits[best].sum()) + 8 * length, float((expected * left).sum()))


def _by_rank(counts: Counts) -> Vector:
    """The law of Zipf over the rows behind an offset, which is the likeliest one; those before it are like its 1,000th.

    Tokenizers put single characters, bytes and reserved rows first.
    """
    seen = np.minimum(counts, 3)  # some rows are in every text
    best, likelihood = _zipf(len(counts), 0), -np.inf
    for offset in range(0, len(counts) // 8, max(1, len(counts) // 128)):
        law = _zipf(len(counts), offset)
        this = float((seen * np.log(law)).sum())
        if this > likelihood:
            best, likelihood = law, this
    return best


def _zipf(count: int, offset: int) -> Vector:
    law = 1.0 / np.maximum(np.arange(count) - offset, FIRST)
    law[:offset] = law[min(count - 1, offset + 1000)]
    share: Vector = law / law.sum()
    return share
