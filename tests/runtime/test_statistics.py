"""Per-channel statistics are sums that do not care how samples are cut."""

from __future__ import annotations

import numpy as np
import pytest

from bct_onnx.runtime.statistics import ChannelStatistics, observe
from tests.passes.small import model, normal


@pytest.mark.parametrize("cut", [1, 5, 9])
def test_parts_add_up(cut: int) -> None:
    x = normal(10, 6)
    whole, parts = ChannelStatistics.of(x), ChannelStatistics.of(x[:cut]) + ChannelStatistics.of(x[cut:])
    np.testing.assert_array_equal(whole.max_abs, parts.max_abs)
    np.testing.assert_allclose(whole.sum_squares, parts.sum_squares, rtol=1e-12)
    assert whole.rows == parts.rows == 10


def test_rows_are_all_axes_but_the_last() -> None:
    x = normal(2, 5, 6)
    np.testing.assert_array_equal(ChannelStatistics.of(x).max_abs, np.abs(x).max(axis=(0, 1)))
    assert ChannelStatistics.of(x).rows == 10


def test_half_precision_does_not_overflow() -> None:
    x = np.full((100, 2), 60000, np.float16)
    assert ChannelStatistics.of(x).mean_square == pytest.approx(np.float64(np.float16(60000)) ** 2)


def test_nothing_seen() -> None:
    empty = ChannelStatistics.of(normal(0, 6))
    assert empty.rows == 0 and not empty.mean_square.any()
    np.testing.assert_array_equal(
        (empty + ChannelStatistics.of(normal(3, 6))).max_abs, np.abs(normal(3, 6)).max(axis=0)
    )


def test_divided() -> None:
    factors = np.array([1, 2, 4], np.float32)
    got, want = ChannelStatistics.of(normal(9, 3)).divided(factors), ChannelStatistics.of(normal(9, 3) / factors)
    np.testing.assert_allclose(got.max_abs, want.max_abs, rtol=1e-6)
    np.testing.assert_allclose(got.sum_squares, want.sum_squares, rtol=1e-6)


def test_observing_intermediate_values_and_outputs() -> None:
    target = model("g (float[n,4] x) => (float[n,4] y) { h = Neg (x)  y = Exp (h) }")
    values = [node.outputs[0] for node in target.graph]
    samples = [{"x": normal(3, 4, seed=seed)} for seed in range(3)]
    found = observe(target, values, samples)
    x = np.concatenate([sample["x"] for sample in samples])
    np.testing.assert_allclose(found["h"].max_abs, np.abs(x).max(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found["y"].max_abs, np.exp(-x).max(axis=0), rtol=1e-5)
    assert found["h"].rows == 9 and [output.name for output in target.graph.outputs] == ["y"]
