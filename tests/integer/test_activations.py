"""GELU, SiLU, sigmoid and tanh from codes to codes: each form of `gelu` and of `sigmoid`.

Products grow with x, so their tests choose the output scale by its ratio to that of x. Sigmoid and tanh end at 1:
their output scale stands alone.
"""

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
from tests.integer.harness import SCALES, Feeds, every_code, random_codes, scale, unary

RATIOS = (1 / 1024, 1 / 8, 0.6, 1.0, 3.0, 100.0, 1e6)
Y_SCALES = (2**-14, 1e-3, 1 / 256, 1 / 255, 1 / 128, 2 / 255, 0.013, 0.1, 1.0, 30.0)
ROWS = scale(1e-30, 1e-6, *SCALES, 20.0, 16384.0)
PRODUCTS = [KERNELS[name] for name in ("IntegerGelu", "IntegerSigmoidGelu", "IntegerSilu")]
STEPS = [KERNELS[name] for name in ("IntegerSigmoid", "IntegerTanh")]
each = pytest.mark.parametrize("kernel", [*PRODUCTS, *STEPS], ids=str)
products = pytest.mark.parametrize("kernel", PRODUCTS, ids=str)
steps = pytest.mark.parametrize("kernel", STEPS, ids=str)
types = pytest.mark.parametrize("dtype", harness.CODE_TYPES)
zero_points = {"x_zero_point": st.integers(0, 255), "y_zero_point": st.integers(0, 255)}


@each
@types
@pytest.mark.parametrize("x_scale", SCALES)
def test_every_code_with_static_scales(kernel: Kernel, dtype: type, x_scale: float) -> None:
    y_scale, place = (0.6 * x_scale, 20) if kernel in PRODUCTS else (1 / 128, 100)
    feeds = unary(every_code(dtype), scale(x_scale), int(np.iinfo(dtype).min) + 120, scale(y_scale), place)
    found = harness.agree(kernel, feeds, static=True)
    harness.within_bound(kernel, feeds, found)


@products
@types
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("place", [0, 77, 255])
def test_every_code_with_one_ratio_of_scales(kernel: Kernel, dtype: type, ratio: float, place: int) -> None:
    low = int(np.iinfo(dtype).min)
    one_scale_per_row(kernel, unary(every_code(dtype, len(ROWS)), ROWS, low + place, ROWS * np.float32(ratio), place))


@steps
@types
@pytest.mark.parametrize("y_scale", Y_SCALES)
@pytest.mark.parametrize("place", [0, 128, 255])
def test_every_code_with_one_output_scale(kernel: Kernel, dtype: type, y_scale: float, place: int) -> None:
    low = int(np.iinfo(dtype).min)
    one_scale_per_row(
        kernel, unary(every_code(dtype, len(ROWS)), ROWS, low + place, np.full_like(ROWS, y_scale), place)
    )


def one_scale_per_row(kernel: Kernel, feeds: Feeds) -> None:
    harness.within_bound(kernel, feeds, harness.agree(kernel, feeds, levels=("disabled", "all")))


@each
def test_long_rows_of_any_rank(kernel: Kernel) -> None:
    rows = scale(*np.linspace(0.01, 0.2, 6)).reshape(2, 3, 1)
    feeds = unary(random_codes(2, 3, 4096), rows, 131, rows / 2, 9 if kernel in PRODUCTS else 128)
    harness.within_bound(kernel, feeds, harness.agree(kernel, feeds))


@products
@given(x_scale=st.floats(2**-16, 100, width=32), ratio=st.floats(2**-10, 1000, width=32), **zero_points)
def test_the_bound_for_any_ratio(
    kernel: Kernel, x_scale: float, ratio: float, x_zero_point: int, y_zero_point: int
) -> None:
    feeds = unary(every_code(np.uint8), scale(x_scale), x_zero_point, scale(x_scale * ratio), y_zero_point)
    found = harness.refer(kernel, feeds)
    for exact in (exact_gelu, exact_tanh_gelu) if kernel.exact is exact_gelu else (kernel.exact,):
        harness.within_bound(dataclasses.replace(kernel, exact=exact), feeds, found)


@steps
@given(x_scale=st.floats(2**-16, 100, width=32), y_scale=st.floats(2**-14, 10, width=32), **zero_points)
def test_the_bound_for_any_scale(
    kernel: Kernel, x_scale: float, y_scale: float, x_zero_point: int, y_zero_point: int
) -> None:
    feeds = unary(every_code(np.uint8), scale(x_scale), x_zero_point, scale(y_scale), y_zero_point)
    harness.within_bound(kernel, feeds, harness.refer(kernel, feeds))


@products
@harness.ZERO_DIVISOR
def test_a_wrong_constant_of_a_product_fails(kernel: Kernel) -> None:
    x = every_code(np.int8, len(ROWS))
    cases = [unary(x, ROWS, -3, ROWS * np.float32(ratio), 9) for ratio in (0.7, 1e6, 0, 1e-3, 500)]
    same = [] if kernel.name == "IntegerGelu" else ["SigmoidProduct/least_steep"]  # keeps products in int32
    harness.wrong_constants_are_noticed(kernel, cases, same)


@steps
@harness.ZERO_DIVISOR
def test_a_wrong_constant_fails(kernel: Kernel) -> None:
    x = every_code(np.int8, len(ROWS))
    cases = [unary(x, ROWS, -3, np.full_like(ROWS, y_scale), 120) for y_scale in (1 / 128, 0.013, 1e-4, 1e6)]
    harness.wrong_constants_are_noticed(kernel, cases, same=["SigmoidSteps/greatest_j"])  # keeps products in int32


@steps
def test_results_rise_with_their_codes(kernel: Kernel) -> None:
    for x_scale in SCALES:
        feeds = unary(every_code(np.uint8)[0], scale(x_scale), 128, scale(1 / 127), 128)
        assert np.all(np.diff(harness.refer(kernel, feeds).astype(int)) >= 0)


def test_the_form_of_gelu_is_as_close_as_published() -> None:
    """Against the error of I-BERT's own coefficients, 0.0182, and of x sigmoid(1.702 x), 0.0203."""
    x = np.linspace(-8, 8, 100_001)
    magnitude = np.abs(x)
    polynomial = np.maximum(x, 0) - magnitude * 0.06437707 * np.maximum(2.58888825 - magnitude, 0) ** 2
    ibert = np.maximum(x, 0) - magnitude * 0.0722 * np.maximum(1.769 * np.sqrt(2) - magnitude, 0) ** 2
    for form, error in ((polynomial, 0.01446), (ibert, 0.01816), (x / (1 + np.exp(-1.702 * x)), 0.02034)):
        assert np.abs(form - exact_gelu(x)).max() == pytest.approx(error, abs=2e-5)
    assert np.abs(exact_tanh_gelu(x) - exact_gelu(x)).max() < 0.0005
