"""Codes with a scale per row: none is further off than half a step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bct_onnx.quant.rows import coded
from tests.examples import examples


@examples(40)
@given(st.integers(0, 2**32 - 1), st.integers(-30, 30), st.integers(1, 200))
def test_no_value_is_further_off_than_half_a_step(seed: int, exponent: int, length: int) -> None:
    array = np.random.default_rng(seed).standard_normal((5, length, 2)).astype(np.float32) * np.float32(10.0**exponent)
    rows = coded(array, (1, 2))
    steps = np.abs(array).max(axis=(1, 2), keepdims=True) / 127
    decoded = rows.codes * rows.scale
    assert np.all(np.abs(decoded - array) <= 0.501 * steps)
    assert rows.error.noise == pytest.approx(np.square(decoded.astype(float) - array).sum())


def test_zeros_stay_zeros() -> None:
    rows = coded(np.zeros((2, 8), np.float32), (1,))
    assert not rows.codes.any() and np.all(rows.scale == 1) and rows.error.noise == 0


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_what_is_not_finite_is_said(value: float) -> None:
    assert not coded(np.array([[value, 1], [1, 1]], np.float32), (1,)).error.sqnr_db >= 0
