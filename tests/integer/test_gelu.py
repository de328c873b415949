"""GELU from codes to codes: both forms, against erf and tanh."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bct_onnx.integer import KERNELS, Kernel
from bct_onnx.integer.gelu import exact_gelu
from bct_onnx.integer.lookup import exact_tanh_gelu
from tests.integer import harness
from tests.integer.harness import SCALES, every_code, random_codes, scale, unary

RATIOS = (1 / 1024, 1 / 8, 0.6, 1.0, 3.0, 100.0, 1e6)
ROWS = scale(1e-30, 1e-6, *SCALES, 20.0, 16384.0)
each = pytest.mark.parametrize("kernel", [KERNELS["IntegerGelu"], KERNELS["IntegerSigmoidGelu"]], ids=str)
types = pytest.mark.parametrize("dtype", harness.CODE_TYPES)


@each
@types
@pytest.mark.parametrize("x_scale", SCALES)
def test_every_code_with_static_scales(kernel: Kernel, dtype: type, x_scale: float) -> None:
    feeds = unary(every_code(dtype), scale(x_scale), int(np.iinfo(dtype).min) + 120, scale(0.6 * x_scale), 20)
    found = harness.agree(kernel, feeds, static=True)
    harness.within_bound(kernel, feeds, found)


@each
@types
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("place", [0, 77, 255])
def test_every_code_with_one_scale_per_row(kernel: Kernel, dtype: type, ratio: float, place: int) -> None:
    low = int(np.iinfo(dtype).min)
    feeds = unary(every_code(dtype, len(ROWS)), ROWS, low + place, ROWS * np.float32(ratio), place)
    found = harness.agree(kernel, feeds, levels=("disabled", "all"))
    harness.within_bound(kernel, feeds, found)


@each
def test_long_rows_of_any_rank(kernel: Kernel) -> None:
    rows = scale(*np.linspace(0.01, 0.2, 6)).reshape(2, 3, 1)
    feeds = unary(random_codes(2, 3, 4096), rows, 131, rows / 2, 9)
    harness.within_bound(kernel, feeds, harness.agree(kernel, feeds))


@each
@given(
    x_scale=st.floats(2**-16, 100, width=32),
    ratio=st.floats(2**-10, 1000, width=32),
    x_zero_point=st.integers(0, 255),
    y_zero_point=st.integers(0, 255),
)
def test_the_bound_for_any_scale(
    kernel: Kernel, x_scale: float, ratio: float, x_zero_point: int, y_zero_point: int
) -> None:
    feeds = unary(every_code(np.uint8), scale(x_scale), x_zero_point, scale(x_scale * ratio), y_zero_point)
    found = harness.refer(kernel, feeds)
    for exact in (exact_gelu, exact_tanh_gelu):
        harness.within_bound(dataclasses.replace(kernel, exact=exact), feeds, found)


@each
def test_a_wrong_constant_fails(kernel: Kernel) -> None:
    x = every_code(np.int8, len(ROWS))
    cases = [unary(x, ROWS, -3, ROWS * np.float32(ratio), 9) for ratio in (0.7, 1e6, 0, 1e-3, 500)]
    same = ["SigmoidProduct/least_steep"] if kernel.name == "IntegerSigmoidGelu" else []  # keeps products in int32
    harness.wrong_constants_are_noticed(kernel, cases, same)


def test_the_form_is_as_close_as_published() -> None:
    """Against the error of I-BERT's own coefficients, 0.0182, and of x sigmoid(1.702 x), 0.0203."""
    x = np.linspace(-8, 8, 100_001)
    magnitude = np.abs(x)
    polynomial = np.maximum(x, 0) - magnitude * 0.06437707 * np.maximum(2.58888825 - magnitude, 0) ** 2
    ibert = np.maximum(x, 0) - magnitude * 0.0722 * np.maximum(1.769 * np.sqrt(2) - magnitude, 0) ** 2
    for form, error in ((polynomial, 0.01446), (ibert, 0.01816), (x / (1 + np.exp(-1.702 * x)), 0.02034)):
        assert np.abs(form - exact_gelu(x)).max() == pytest.approx(error, abs=2e-5)
    assert np.abs(exact_tanh_gelu(x) - exact_gelu(x)).max() < 0.0005
