"""Which rows of a user's data calibrate, and which are held back to check the result with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

_T = TypeVar("_T")

Part = Literal["all", "calibrating", "held back"]

EVERY, HELD_BACK = 16, 24
"""One in so many rows is held back where there are twice as many, and at most so many of these are used."""


def rows_of(rows: Sequence[_T], part: Part, limit: int) -> list[_T]:
    """At most ``limit`` rows of a part, taken evenly; few rows all calibrate.

    >>> rows_of(range(8), "calibrating", 4), rows_of(range(8), "held back", 4), rows_of(range(40), "held back", 4)
    ([0, 2, 4, 6], [], [15, 31])
    >>> 15 in rows_of(range(40), "calibrating", 40), 15 in rows_of(range(40), "all", 40)
    (False, True)
    """
    chosen = _chosen(rows, part)
    return evenly(chosen, min(limit, len(chosen)))


def evenly(rows: Sequence[_T], count: int) -> list[_T]:
    """So many of some rows, taken evenly.

    >>> evenly(range(8), 3)
    [0, 2, 5]
    """
    return [rows[number * len(rows) // count] for number in range(count)]


def _chosen(rows: Sequence[_T], part: Part) -> Sequence[_T]:
    is_small = len(rows) < 2 * EVERY
    if part == "all" or (is_small and part == "calibrating"):
        return rows
    if is_small:
        return []
    return [row for number, row in enumerate(rows) if (number % EVERY == EVERY - 1) == (part == "held back")]
