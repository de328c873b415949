"""Per-channel statistics are sums and extremes that do not care how samples are cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.runtime import observer as module
from bct_onnx.runtime.observer import Observer
from bct_onnx.runtime.session import run
from bct_onnx.runtime.statistics import ChannelStatistics
from tests.passes.small import model, normal


@pytest.mark.parametrize("cut", [0, 1, 5, 9, 10])
def test_parts_add_up(cut: int) -> None:
    x = normal(10, 6)
    whole = ChannelStatistics.of(x, products=True)
    parts = ChannelStatistics.of(x[:cut], products=True) + ChannelStatistics.of(x[cut:], products=True)
    np.testing.assert_array_equal(whole.minimum, parts.minimum)
    np.testing.assert_array_equal(whole.maximum, parts.maximum)
    np.testing.assert_allclose(whole.sum_squares, parts.sum_squares, rtol=1e-12)
    assert whole.products is not None and parts.products is not None
    np.testing.assert_allclose(whole.products, parts.products, rtol=1e-5, atol=1e-5)
    assert whole.rows == parts.rows == 10


def test_rows_are_all_axes_but_the_last() -> None:
    x = normal(2, 5, 6)
    found = ChannelStatistics.of(x, products=True)
    np.testing.assert_array_equal(found.minimum, x.min(axis=(0, 1)))
    np.testing.assert_array_equal(found.maximum, x.max(axis=(0, 1)))
    np.testing.assert_array_equal(found.max_abs, np.abs(x).max(axis=(0, 1)))
    wide = x.reshape(10, 6).astype(np.float64)
    np.testing.assert_allclose(found.mean_square, np.square(wide).mean(axis=0), rtol=1e-12)
    assert found.rows == 10 and found.products is not None
    np.testing.assert_allclose(found.products, wide.T @ wide, rtol=1e-5, atol=1e-5)
    assert found.minimum.dtype == found.maximum.dtype == found.sum_squares.dtype == np.float64


def test_ranges_of_one_sign() -> None:
    found = ChannelStatistics.of(np.array([[1.0, -5.0], [3.0, -2.0]]))
    assert found.minimum.tolist() == [1, -5] and found.maximum.tolist() == [3, -2] and found.max_abs.tolist() == [3, 5]


def test_half_precision_does_not_overflow() -> None:
    x = np.full((100, 2), 60000, np.float16)
    assert ChannelStatistics.of(x).mean_square == pytest.approx(np.float64(np.float16(60000)) ** 2)


def test_a_nan_is_not_lost() -> None:
    found = ChannelStatistics.of(np.array([[1.0, np.nan], [2.0, 3.0]], np.float32))
    assert np.isnan(found.max_abs).tolist() == [False, True]


def test_nothing_seen() -> None:
    empty = ChannelStatistics.of(normal(0, 6))
    assert empty.rows == 0 and not empty.mean_square.any() and not empty.max_abs.any()
    both = empty + ChannelStatistics.of(normal(3, 6))
    np.testing.assert_array_equal(both.max_abs, np.abs(normal(3, 6)).max(axis=0))
    np.testing.assert_array_equal(both.minimum, normal(3, 6).min(axis=0))


def test_divided() -> None:
    factors = np.array([1, 2, 4], np.float32)
    got = ChannelStatistics.of(normal(9, 3), products=True).divided(factors)
    want = ChannelStatistics.of(normal(9, 3) / factors, products=True)
    for figure in ("minimum", "maximum", "max_abs", "sum_squares", "products"):
        np.testing.assert_allclose(getattr(got, figure), getattr(want, figure), rtol=1e-5, atol=1e-6)


def test_observing_intermediate_values_and_outputs() -> None:
    target = model("g (float[n,4] x) => (float[n,4] y) { h = Neg (x)  y = Exp (h) }")
    observer = Observer(target, [node.outputs[0] for node in target.graph], products={"h"})
    samples = [{"x": normal(3, 4, seed=seed)} for seed in range(3)]
    for sample in samples:
        observer.see(sample)
    x, found = np.concatenate([sample["x"] for sample in samples]), observer.found
    np.testing.assert_allclose(found["h"].minimum, -x.max(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found["y"].maximum, np.exp(-x).max(axis=0), rtol=1e-5)
    assert found["h"].products is not None and found["y"].products is None
    assert found["h"].rows == 9 and [output.name for output in target.graph.outputs] == ["y"]


def test_sizes_are_counted_once_for_all_feeds_of_the_same_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    target = model("g (float[n,4] x) => (float[n,4] y) { h = Neg (x)  y = Exp (h) }")
    observer = Observer(target, [node.outputs[0] for node in target.graph])
    counted: list[str] = []

    def counting(*given: Any) -> list[Any]:
        counted.append("run")
        return run(*given)

    monkeypatch.setattr(module, "run", counting)
    assert observer.sizes({"x": normal(3, 4)}) == {"h": 4 * 12, "y": 4 * 12}
    for seed in range(3):
        observer.see({"x": normal(3, 4, seed=seed)}, at_once=4 * 12)  # one value per run
    assert len(counted) == 1 + 3 * 2
    observer.see({"x": normal(5, 4)}, at_once=1 << 20)
    assert len(counted) == 7 + 2 and observer.found["h"].rows == 3 * 3 + 5


@pytest.mark.parametrize("kind", [ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE])
def test_values_observed_as_a_whole_are_one_channel(kind: ir.DataType) -> None:
    target = model(f"g (float[n,m] x) => (float[n,m] z) {{ y = Cast <to = {kind.value}> (x)  z = Cast <to = 1> (y) }}")
    observer = Observer(target, [target.graph[0].outputs[0]], whole={"y"})
    samples = [300 * normal(rows, columns) for rows, columns in ((3, 4), (2, 7))]
    for sample in samples:
        observer.see({"x": sample})
    x = np.concatenate([sample.reshape(-1) for sample in samples]).astype(kind.numpy()).astype(np.float64)
    found = observer.found["y"]
    assert found.rows == x.size and found.minimum.shape == (1,)
    np.testing.assert_allclose(found.minimum, x.min(), rtol=1e-6)
    np.testing.assert_allclose(found.maximum, x.max(), rtol=1e-6)
    np.testing.assert_allclose(found.mean_square, np.square(x).mean(), rtol=1e-6)
