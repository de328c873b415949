"""Expected lookups of rows, and widths that are the best for their size."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bct_onnx.quant import mixed
from bct_onnx.study.allocation import row_likeness, row_use

ERRORS = {1: 0.36, 2: 0.12, 3: 0.037, 4: 0.011, 6: 0.001, 8: 0.0001}


@pytest.mark.parametrize("seed", range(3))
def test_spreads_are_the_best_for_their_size(seed: int) -> None:
    expected = np.random.default_rng(seed).lognormal(0, 2, 5)
    spreads = list(row_use.spreads(expected, 64, list(ERRORS), np.array([list(ERRORS.values())])))
    assert len(spreads) > 5
    every: list[tuple[int, float]] = []
    for widths in itertools.product(ERRORS, repeat=5):
        noise = sum(power * ERRORS[width] for power, width in zip(expected, widths, strict=True))
        every.append((8 * mixed.nbytes(np.array(widths, np.uint8), 64), noise))
    for spread in spreads:
        assert spread.bits == 8 * mixed.nbytes(spread.widths, 64)
        assert spread.noise == pytest.approx(min(noise for bits, noise in every if bits <= spread.bits))


def test_shares_are_those_of_other_texts() -> None:
    """Of a vocabulary sorted by frequency, counted on one text: nearer to the true shares than the counts are."""
    rng = np.random.default_rng(0)
    law = 1 / (np.arange(4000) + 10.0)
    law /= law.sum()
    counts = np.bincount(rng.choice(4000, 8000, p=law), minlength=4000)
    shares = row_use.shares(counts)
    assert shares.sum() == pytest.approx(1.0) and (shares > 0).all()
    assert (law * np.log(law / shares)).sum() < 0.15
    never = counts == 0
    assert shares[never].sum() == pytest.approx(law[never].sum(), rel=0.25)
    assert shares[never][:200].mean() > 2 * shares[never][-200:].mean()


def test_rows_before_the_words_are_not_taken_for_the_most_frequent() -> None:
    rng = np.random.default_rng(0)
    law = np.where(np.arange(4000) < 1000, 0.0, 1 / np.maximum(np.arange(4000) - 990.0, 1.0))
    counts = np.bincount(rng.choice(4000, 8000, p=law / law.sum()), minlength=4000)
    shares = row_use.shares(counts)
    assert shares[:1000].mean() < shares[1000:1100].mean() / 20


def test_the_share_of_unseen_lookups() -> None:
    assert row_use.unseen_share(np.array([3, 0, 1]), np.array([6, 2, 0])) == 0.25
    assert row_use.unseen_share(np.array([3, 0, 1]), np.array([0, 0, 0])) == 0.0


def test_rows_that_are_like_those_seen_are_expected() -> None:
    """Of words of a kind that half of the rows are of, some were seen: the others of that kind come next."""
    rng = np.random.default_rng(0)
    kind = rng.random(6000) < 0.5
    table = rng.normal(size=(6000, 32)).astype(np.float32)
    table[kind] += 0.5 * rng.normal(size=32).astype(np.float32)
    counts = np.where(kind & (rng.random(6000) < 0.3), 1, 0)
    told = row_likeness.likeness(table.T, counts)
    never = counts == 0
    assert told[never & kind].mean() > told[never & ~kind].mean() + 0.1
    assert abs(told[counts > 0].mean() - told[never & kind].mean()) < 0.02  # a row is told what others say of it
    shares = row_use.shares(counts, order=np.argsort(told, kind="stable"))
    assert shares[never & kind].mean() > 3 * shares[never & ~kind].mean()
    assert row_use.shares(counts)[never & kind].mean() < 1.1 * row_use.shares(counts)[never & ~kind].mean()


def test_parts_of_a_table_tell_what_all_of_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    table, counts = rng.normal(size=(16, 500)), rng.integers(0, 2, 500)
    whole = row_likeness.likeness(table, counts)
    monkeypatch.setattr(mixed, "AT_ONCE", 4 * 16 * 37)
    np.testing.assert_allclose(row_likeness.likeness(table, counts), whole, rtol=1e-9)
