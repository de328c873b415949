"""Ranges from histograms are those that the values themselves would give."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bct_onnx.forms.codes import Range
from bct_onnx.runtime.histogram import CLIPPED, COUNTED, SHARES, Histogram

Array = npt.NDArray[Any]


def error(x: Array, low: float, high: float) -> float:
    """Squared error of uint8 codes, each row by its mean square, in the measure of the module."""
    scale, zero = Range(low, high).uint8()
    inside = np.clip(x, low, high)
    back = (np.clip(np.rint(inside / scale) + zero, 0, 255) - zero) * float(scale)
    each = (inside - back) ** 2 + CLIPPED * (x - inside) ** 2
    return float((each / np.mean(x**2, axis=1, keepdims=True)).sum())


def values(kind: str) -> Array:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(400, 64))
    if kind == "gelu":
        x = x / (1 + np.exp(-1.7 * x))
    elif kind == "heavy":
        x = x**3
    elif kind == "outlying":
        x[:2] *= 20
    return x.astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("kind", ["normal", "gelu", "heavy", "outlying"])
def test_no_other_range_is_much_better(kind: str) -> None:
    x = values(kind)
    low, high = float(min(x.min(), 0)), float(max(x.max(), 0))
    found = Histogram.of(x.astype(np.float32)).best_range(low, high)
    top = max(-low, high)
    errors = [error(x, max(low, -share * top), min(high, share * top)) for share in SHARES]
    assert error(x, *found) <= 1.05 * min(errors)
    assert low <= found[0] <= 0 <= found[1] <= high


def test_a_token_that_is_larger_as_a_whole_does_not_decide() -> None:
    x = values("outlying")
    found = Histogram.of(x.astype(np.float32)).best_range(float(x.min()), float(x.max()))
    assert found[1] < 0.5 * x.max()


def test_parts_add_up() -> None:
    x = values("gelu").astype(np.float32)
    parts = Histogram.of(x[:100]) + Histogram.of(x[100:])
    np.testing.assert_allclose(parts.weights, Histogram.of(x).weights, rtol=1e-12)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (5, 4)])
def test_nothing_to_choose_from(shape: tuple[int, int]) -> None:
    assert Histogram.of(np.zeros(shape, np.float32)).best_range(-1.0, 2.0) == (-1.0, 2.0)
    assert Histogram.of(np.zeros(shape, np.float32)).best_range(0.0, 0.0) == (0.0, 0.0)


def test_what_is_not_finite_is_left_out() -> None:
    x = np.array([[1, np.nan], [2, np.inf], [3, 4], [-3, 2]], np.float32)
    low, high = Histogram.of(x).best_range(-3.0, 4.0)
    assert -3 <= low < 0 < high <= 4


def test_of_long_arrays_some_rows_count() -> None:
    x = np.ones((4 * COUNTED // 64, 64), np.float32)
    assert Histogram.of(x).weights.sum() == pytest.approx(COUNTED, rel=0.05)
