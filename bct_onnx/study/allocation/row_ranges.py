"""Rows of a table in contiguous ranges of different formats: those that are looked up often with more bits.

Vocabularies are sorted by frequency more or less, so a few ranges get most of what bits per row could give.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bct_onnx.study.allocation.data import Counts

RANGES = 4
"""Most ranges of one table: each is a lookup of its own."""

BINS = 96
"""Ranges begin and end at so many places, and frequencies count by the rows between two of them."""

SPLIT = 4096
"""Tables with fewer rows stay whole."""

REPRESENTATIVES = 12
"""Rows of each bin whose error is taken, of those that were seen and of all."""

PRICES = 40
"""Prices per bit at which the best ranges are looked for."""

Vector = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Split:
    """Ranges that cover a table.

    Attributes:
        ranges: First row, last row (exclusive) and number of the format of each, in order.
        bits: Stored bits of all.
        noise: Of the outputs.
    """

    ranges: tuple[tuple[int, int, int], ...]
    bits: int
    noise: float


def edges(rows: int) -> npt.NDArray[np.intp]:
    """Where bins begin and end, [bins + 1].

    >>> edges(3)
    array([0, 1, 2, 3])
    """
    return np.linspace(0, rows, min(rows, BINS) + 1).astype(np.intp)


def representatives(counts: Counts | None, bounds: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.intp], Vector]:
    """Some rows of each bin and the share of the lookups that each stands for, [n] both.

    Of the rows that were counted the most frequent stand for all of their bin. Rows that were never seen come too:
    their share is that of the rows seen once (Good and Turing); it goes to all rows alike, and some spread over the bin
    stand for them. Where nothing was counted, these stand for everything.

    >>> rows, weight = representatives(np.array([6, 0, 1, 1]), np.array([0, 2, 4]))
    >>> rows, weight
    (array([0, 2, 3, 0, 1, 2, 3]), array([0.5625 , 0.09375, 0.09375, 0.0625 , 0.0625 , 0.0625 , 0.0625 ]))
    """
    total = 0 if counts is None else int(counts.sum())
    unseen = 1.0 if counts is None or not total else float((counts == 1).sum()) / total
    rows: list[npt.NDArray[np.intp]] = []
    weight: list[Vector] = []
    for first, last in itertools.pairwise(bounds):
        here = np.empty(0, np.int64) if counts is None else counts[first:last]
        if here.any():
            most = np.sort(np.argsort(-here, kind="stable")[:REPRESENTATIVES])
            most = most[here[most] > 0]
            shares = here[most].astype(np.float64) * (here.sum() / here[most].sum() / total)
            rows.append(first + most)
            weight.append((1 - unseen) * shares)
    for first, last in itertools.pairwise(bounds):
        spread = np.unique(np.linspace(first, last - 1, REPRESENTATIVES).astype(np.intp))
        rows.append(spread)
        weight.append(np.full(len(spread), unseen * (last - first) / bounds[-1] / len(spread)))
    return np.concatenate(rows), np.concatenate(weight)


def binned(rows: npt.NDArray[np.intp], values: Vector, bounds: npt.NDArray[np.intp]) -> Vector:
    """Sums of values of rows by bin, [bins]."""
    sums = np.zeros(len(bounds) - 1)
    np.add.at(sums, np.searchsorted(bounds, rows, side="right") - 1, values)
    return sums


def splits(bounds: npt.NDArray[np.intp], noise: Vector, bits: Vector, most: int = RANGES) -> list[Split]:
    """The best ways to cut a table into at most so many ranges, one for each price of a bit.

    Args:
        bounds: [bins + 1].
        noise: What each bin adds in each format, [formats, bins].
        bits: Stored bits of each bin in each format, [formats, bins].
        most: Most ranges.
    """
    total_noise, total_bits = noise.sum(axis=1), bits.sum(axis=1)
    spread = np.ptp(total_noise) / max(float(np.ptp(total_bits)), 1.0)
    if not spread:
        return []
    prices = spread * np.geomspace(1e-3, 1e2, PRICES)
    found = {cut: None for price in prices for cut in [tuple(_cut(noise + price * bits, most))]}
    return [_split(bounds, noise, bits, cut) for cut in found]


def _cut(cost: Vector, most: int) -> Sequence[tuple[int, int, int]]:
    """First bin, last bin (exclusive) and format of each range of least cost in all, by dynamic programming."""
    bins = cost.shape[1]
    before = np.concatenate([np.zeros((len(cost), 1)), cost.cumsum(axis=1)], axis=1)
    whole = before[:, None, :] - before[:, :, None]  # [formats, first, last]
    price, which = whole.min(axis=0), whole.argmin(axis=0)
    price[np.tril_indices(bins + 1)] = np.inf
    best = [np.where(np.arange(bins + 1) == 0, 0.0, np.inf)]
    links = []
    for _ in range(most):
        through = best[-1][:, None] + price
        links.append(through.argmin(axis=0))
        best.append(through.min(axis=0))
    ranges = int(np.argmin([one[bins] for one in best]))
    cut: list[tuple[int, int, int]] = []
    last = bins
    for number in range(ranges - 1, -1, -1):
        first = int(links[number][last])
        cut.append((first, last, int(which[first, last])))
        last = first
    groups = (list(group) for _, group in itertools.groupby(cut[::-1], key=lambda one: one[2]))
    return [(group[0][0], group[-1][1], group[0][2]) for group in groups]


def _split(bounds: npt.NDArray[np.intp], noise: Vector, bits: Vector, cut: Sequence[tuple[int, int, int]]) -> Split:
    ranges = tuple((int(bounds[first]), int(bounds[last]), at) for first, last, at in cut)
    stored = sum(float(bits[at, first:last].sum()) for first, last, at in cut)
    return Split(ranges, round(stored), float(sum(noise[at, first:last].sum() for first, last, at in cut)))
