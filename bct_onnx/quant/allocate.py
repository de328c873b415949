"""Bit allocation: one way to store each tensor, of least noise in all, within a number of bits.

The errors of separate tensors are nearly independent, so their effects on the outputs add up, and the choice is a
multiple-choice knapsack. Its relaxation is solved by walking down the lower convex hulls of all tensors, the steepest
step first (Shoham and Gersho 1988, for bit allocation). The slope where the bits run out prices every bit; a choice
that costs more at this price than the gap between the relaxation and what the walk found cannot be in a better
solution, and the few that are left are enumerated tensor by tensor (Dyer, Kayal and Walker 1984).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

STATES = 1 << 14
"""Partial solutions kept per tensor: below it the result is exact, above it those of the least lower bound are kept."""


@dataclass(frozen=True)
class Choice:
    """One way to store a tensor: bits in all, scales counted, and the noise it causes at the outputs."""

    bits: int
    noise: float


Items = Sequence[Sequence[Choice]]


def allocate(items: Items, budget: int) -> list[int]:
    """For each item the number of the choice to take.

    Args:
        items: The choices of each tensor, in any order, at least one each; noise is finite and not negative.
        budget: Bits that all may take together.

    Raises:
        ValueError: Even the smallest choices do not fit.

    >>> table = [Choice(200, 9.0), Choice(300, 1.0)], [Choice(100, 4.0), Choice(150, 1.0), Choice(200, 0.5)]
    >>> allocate(table, 450), allocate(table, 399)
    ([1, 1], [0, 1])
    """
    least, _ = span(items)
    if budget < least:
        raise ValueError(f"a budget of {budget} bits is below the least, {least}")
    chosen, price = _walk(items, budget)
    return _enumerated(items, budget, chosen, price)


def span(items: Items) -> tuple[int, int]:
    """Bits that all items take at least, and at the lowest noise they can have.

    >>> span([[Choice(300, 1.0), Choice(200, 9.0)], [Choice(400, 1.0), Choice(100, 1.0)]])
    (300, 400)
    """
    least = most = 0
    for choices in items:
        corners = hull(choices)
        least += choices[corners[0]].bits
        most += choices[corners[-1]].bits
    return least, most


def hull(choices: Sequence[Choice]) -> list[int]:
    """Numbers of the choices on the lower convex hull, by rising bits and falling noise.

    >>> hull([Choice(4, 1.0), Choice(2, 9.0), Choice(3, 8.0), Choice(5, 1.0)])
    [1, 0]
    """
    kept: list[int] = []
    for this in sorted(range(len(choices)), key=lambda n: (choices[n].bits, choices[n].noise)):
        if kept and choices[this].noise >= choices[kept[-1]].noise:
            continue
        while len(kept) > 1 and _slope(choices, kept[-2], kept[-1]) <= _slope(choices, kept[-1], this):
            kept.pop()
        kept.append(this)
    return kept


def _slope(choices: Sequence[Choice], a: int, b: int) -> float:
    """Noise that each bit from choice ``a`` to ``b`` takes away."""
    return (choices[a].noise - choices[b].noise) / (choices[b].bits - choices[a].bits)


def _walk(items: Items, budget: int) -> tuple[list[int], float]:
    """What the steepest steps that fit lead to, and the slope of the first that does not (0 where all fit)."""
    hulls = list(map(hull, items))
    chosen = [one[0] for one in hulls]
    left = budget - _bits(items, chosen)
    steps: list[tuple[float, int, int]] = []
    for number, (choices, corners) in enumerate(zip(items, hulls, strict=True)):
        steps += [(-_slope(choices, a, b), number, b) for a, b in itertools.pairwise(corners)]
    steps.sort()
    price, stuck = 0.0, set[int]()
    for slope, number, to in steps:
        step = items[number][to].bits - items[number][chosen[number]].bits
        if number in stuck or step > left:
            stuck.add(number)
            price = price or -slope
            continue
        chosen[number], left = to, left - step
    return chosen, price


def _enumerated(items: Items, budget: int, chosen: list[int], price: float) -> list[int]:
    """The best of all solutions, among them ``chosen``.

    A state is a choice for each of the first items; its cost is what those choices take above the least at ``price``,
    which bounds from below what any completion is above the relaxation.
    """
    most = sum(_cost(choices, price)[at] for choices, at in zip(items, chosen, strict=True))
    most = (most + price * (budget - _bits(items, chosen))) * (1 + 1e-9)
    rest = span(items)[0]
    bits, cost = np.zeros(1, np.int64), np.zeros(1)
    history: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = []
    for choices in items:
        added = np.array([one.bits for one in choices], np.int64)
        rest -= int(added.min())
        every_cost = (cost[:, None] + _cost(choices, price)).ravel()
        every_bits = (bits[:, None] + added).ravel()
        fits = np.flatnonzero((every_bits + rest <= budget) & (every_cost <= most))
        kept = fits[_undominated(every_bits[fits], every_cost[fits] - price * every_bits[fits])]
        kept = kept[np.argsort(every_cost[kept], kind="stable")[:STATES]]
        bits, cost = every_bits[kept], every_cost[kept]
        history.append((kept // len(choices), kept % len(choices)))
        if not len(kept):
            return chosen
    return list(_traced(history, int((cost - price * bits).argmin())))


def _cost(choices: Sequence[Choice], price: float) -> npt.NDArray[np.float64]:
    """What each choice takes at a price per bit, above the least of them."""
    taken = np.array([one.noise + price * one.bits for one in choices])
    above: npt.NDArray[np.float64] = taken - taken.min()
    return above


def _undominated(bits: npt.NDArray[Any], noise: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Numbers of the states than which none has fewer bits and no more noise."""
    order = np.lexsort((noise, bits))
    before = np.minimum.accumulate(np.concatenate([[np.inf], noise[order][:-1]]))
    return order[noise[order] < before]


def _traced(history: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]], state: int) -> Iterator[int]:
    """The choices that led to a state, in the items' order."""
    found = []
    for parents, choices in reversed(history):
        found.append(int(choices[state]))
        state = int(parents[state])
    return reversed(found)


def _bits(items: Items, chosen: Sequence[int]) -> int:
    return sum(choices[at].bits for choices, at in zip(items, chosen, strict=True))
