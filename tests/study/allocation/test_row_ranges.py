"""Ranges of rows against every way to cut, and what stands for rows that were or were not seen."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bct_onnx.study.allocation import row_ranges as ranges


def every_cut(noise: ranges.Vector, bits: ranges.Vector, most: int) -> list[tuple[float, float]]:
    """Bits and noise of every way to cut into at most so many ranges."""
    formats, bins = noise.shape
    found = []
    for count in range(1, most + 1):
        for inner in itertools.combinations(range(1, bins), count - 1):
            places = [0, *inner, bins]
            for chosen in itertools.product(range(formats), repeat=count):
                parts = list(zip(chosen, itertools.pairwise(places), strict=True))
                found.append(
                    (
                        sum(float(bits[at, a:b].sum()) for at, (a, b) in parts),
                        sum(float(noise[at, a:b].sum()) for at, (a, b) in parts),
                    )
                )
    return found


@pytest.mark.parametrize("seed", range(4))
def test_splits_are_the_best_for_their_size(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bits = np.array([[2.0], [3.0], [5.0]]) * rng.integers(5, 15, 6).astype(np.float64)
    noise = rng.lognormal(0, 2, 6) * np.array([[16.0], [4.0], [0.3]])
    splits = ranges.splits(np.arange(0, 70, 10), noise, bits, most=3)
    cuts = every_cut(noise, bits, 3)
    assert len({one.bits for one in splits}) > 2
    for one in splits:
        assert one.noise == pytest.approx(min(n for b, n in cuts if b <= one.bits))


def test_ranges_cover_the_table() -> None:
    bounds = ranges.edges(1000)
    noise = np.geomspace(1, 1e-6, len(bounds) - 1) * np.array([[16.0], [4.0], [1.0], [0.01]])
    bits = np.diff(bounds) * np.array([[2.0], [3.0], [4.0], [8.0]])
    splits = ranges.splits(bounds, noise, bits)
    assert any(len(one.ranges) == ranges.RANGES for one in splits)
    for one in splits:
        firsts, lasts, formats = zip(*one.ranges, strict=True)
        assert (firsts[0], lasts[-1]) == (0, 1000) and firsts[1:] == lasts[:-1]
        assert list(formats) == sorted(formats, reverse=True) and len(set(formats)) == len(formats)


def test_tables_without_noise_are_not_split() -> None:
    assert ranges.splits(ranges.edges(50), np.zeros((2, 50)), np.ones((2, 50))) == []


@pytest.mark.parametrize("seen", [None, "nothing", "some"])
def test_shares_make_up_all_lookups(seen: str | None) -> None:
    counts = {"nothing": np.zeros(1000, np.int64), "some": np.random.default_rng(0).poisson(0.5, 1000)}
    bounds = ranges.edges(1000)
    rows, weight = ranges.representatives(counts.get(seen or ""), bounds)
    assert weight.sum() == pytest.approx(1.0) and (weight > 0).all()
    by_bin = ranges.binned(rows, weight, bounds)
    assert by_bin.sum() == pytest.approx(1.0) and (by_bin > 0).all()


def test_frequent_rows_weigh_more() -> None:
    counts = np.ones(1000, np.int64)
    counts[:10] = 500
    rows, weight = ranges.representatives(counts, ranges.edges(1000))
    by_bin = ranges.binned(rows, weight, ranges.edges(1000))
    assert by_bin[0] > 0.5 > 100 * by_bin[-1]
