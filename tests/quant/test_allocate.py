"""Bit allocation against every combination there is, and its bounds where there are too many."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bct_onnx.quant.allocate import Choice, Items, allocate, hull, span

CHOICE = st.builds(Choice, st.integers(1, 400), st.floats(0, 100).map(lambda noise: round(noise, 3)))
ITEMS = st.lists(st.lists(CHOICE, min_size=1, max_size=5), min_size=1, max_size=5)


def total(items: Items, chosen: Sequence[int]) -> tuple[int, float]:
    taken = [choices[at] for choices, at in zip(items, chosen, strict=True)]
    return sum(one.bits for one in taken), sum(one.noise for one in taken)


def seeded(count: int, seed: int) -> list[list[Choice]]:
    """Tensors as they are: noise falls by about 6 dB per bit, sizes and noises differ by orders of magnitude."""
    rng = np.random.default_rng(seed)
    sizes, noises = rng.integers(10, 1000, count) * 1000, rng.lognormal(0, 2, count)
    return [
        [
            Choice(round(bits * size), float(noise * 4.0**-bits * rng.uniform(0.7, 1.3)))
            for bits in (2, 2.1, 3, 3.1, 4, 8)
        ]
        for size, noise in zip(sizes.tolist(), noises.tolist(), strict=True)
    ]


@given(ITEMS, st.floats(0, 1))
def test_as_good_as_the_best_of_all_combinations(items: list[list[Choice]], share: float) -> None:
    least, most = sum(min(one.bits for one in choices) for choices in items), 2000
    budget = least + int(share * (most - least))
    every = itertools.product(*(range(len(choices)) for choices in items))
    best = min(noise for bits, noise in (total(items, chosen) for chosen in every) if bits <= budget)
    bits, noise = total(items, allocate(items, budget))
    assert bits <= budget
    assert noise == pytest.approx(best, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_many_tensors_reach_the_relaxation(seed: int) -> None:
    items = seeded(200, seed)
    least, most = span(items)
    budget = (3 * least + most) // 4
    bits, noise = total(items, allocate(items, budget))
    assert bits <= budget < bits + min(one.bits for choices in items for one in choices)
    assert noise <= relaxed(items, budget) * 1.001


def relaxed(items: Items, budget: int) -> float:
    """Least noise if tensors could be split between two neighbours on their hulls: a lower bound."""
    steps = []
    noise = sum(choices[hull(choices)[0]].noise for choices in items)
    left = float(budget - span(items)[0])
    for choices in items:
        for a, b in itertools.pairwise(hull(choices)):
            steps.append((choices[a].noise - choices[b].noise, choices[b].bits - choices[a].bits))
    for gain, bits in sorted(steps, key=lambda step: -step[0] / step[1]):
        share = min(1.0, left / bits)
        noise, left = noise - share * gain, left - share * bits
    return noise


def test_more_bits_are_never_worse() -> None:
    items = seeded(12, 0)
    least, most = span(items)
    noises = [total(items, allocate(items, int(budget)))[1] for budget in np.linspace(least, most + 10, 60)]
    assert noises == sorted(noises, reverse=True) and noises[0] > noises[-1]
    assert noises[-1] == pytest.approx(sum(min(one.noise for one in choices) for choices in items))


def test_too_small_a_budget_is_refused() -> None:
    items = [[Choice(10, 1.0), Choice(5, 2.0)], [Choice(3, 1.0)]]
    assert allocate(items, 8) == [1, 0]
    with pytest.raises(ValueError, match="a budget of 7 bits is below the least, 8"):
        allocate(items, 7)


def test_tensors_without_noise_take_the_fewest_bits() -> None:
    items = [[Choice(30, 0.0), Choice(20, 0.0)], [Choice(20, 4.0), Choice(40, 1.0)]]
    assert allocate(items, 1000) == [1, 1] and span(items) == (40, 60)


def test_the_hull_leaves_out_what_no_price_chooses() -> None:
    choices = [Choice(2, 10.0), Choice(3, 9.0), Choice(4, 2.0), Choice(5, 2.0), Choice(8, 0.0)]
    assert hull(choices) == [0, 2, 4]
