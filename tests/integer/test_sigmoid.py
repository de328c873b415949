"""Sigmoid, tanh and SiLU from codes to codes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bct_onnx.integer import KERNELS, Kernel
from tests.integer import harness
from tests.integer.harness import SCALES, every_code, random_codes, scale, unary

Y_SCALES = (2**-14, 1e-3, 1 / 256, 1 / 255, 1 / 128, 2 / 255, 0.013, 0.1, 1.0, 30.0)
RATIOS = (1 / 1024, 1 / 8, 0.6, 1.0, 3.0, 100.0, 1e6)
ROWS = scale(1e-30, 1e-6, *SCALES, 20.0, 16384.0)
steps = pytest.mark.parametrize("kernel", [KERNELS["IntegerSigmoid"], KERNELS["IntegerTanh"]], ids=str)
each = pytest.mark.parametrize("kernel", [KERNELS[f"Integer{name}"] for name in ("Sigmoid", "Tanh", "Silu")], ids=str)
types = pytest.mark.parametrize("dtype", harness.CODE_TYPES)


@each
@types
@pytest.mark.parametrize("x_scale", SCALES)
def test_every_code_with_static_scales(kernel: Kernel, dtype: type, x_scale: float) -> None:
    y_scale = x_scale if kernel.name == "IntegerSilu" else 1 / 128
    feeds = unary(every_code(dtype), scale(x_scale), int(np.iinfo(dtype).min) + 120, scale(y_scale), 100)
    found = harness.agree(kernel, feeds, static=True)
    harness.within_bound(kernel, feeds, found)


@steps
@types
@pytest.mark.parametrize("y_scale", Y_SCALES)
@pytest.mark.parametrize("place", [0, 128, 255])
def test_every_code_with_one_scale_per_row(kernel: Kernel, dtype: type, y_scale: float, place: int) -> None:
    low = int(np.iinfo(dtype).min)
    y_scales = np.full_like(ROWS, y_scale)
    feeds = unary(every_code(dtype, len(ROWS)), ROWS, low + place, y_scales, place)
    found = harness.agree(kernel, feeds, levels=("disabled", "all"))
    harness.within_bound(kernel, feeds, found)


@types
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("place", [0, 77, 255])
def test_every_code_of_silu_with_one_scale_per_row(dtype: type, ratio: float, place: int) -> None:
    kernel, low = KERNELS["IntegerSilu"], int(np.iinfo(dtype).min)
    feeds = unary(every_code(dtype, len(ROWS)), ROWS, low + place, ROWS * np.float32(ratio), place)
    found = harness.agree(kernel, feeds, levels=("disabled", "all"))
    harness.within_bound(kernel, feeds, found)


@each
def test_long_rows_of_any_rank(kernel: Kernel) -> None:
    rows = scale(*np.linspace(0.01, 0.2, 6)).reshape(2, 3, 1)
    feeds = unary(random_codes(2, 3, 4096), rows, 131, rows / 2, 128)
    harness.within_bound(kernel, feeds, harness.agree(kernel, feeds))


@each
@given(
    x_scale=st.floats(2**-16, 100, width=32),
    y_scale=st.floats(2**-14, 10, width=32),
    x_zero_point=st.integers(0, 255),
    y_zero_point=st.integers(0, 255),
)
def test_the_bound_for_any_scale(
    kernel: Kernel, x_scale: float, y_scale: float, x_zero_point: int, y_zero_point: int
) -> None:
    if kernel.name == "IntegerSilu":
        y_scale = max(y_scale, x_scale / 1024)
    feeds = unary(every_code(np.uint8), scale(x_scale), x_zero_point, scale(y_scale), y_zero_point)
    harness.within_bound(kernel, feeds, harness.refer(kernel, feeds))


@steps
def test_a_wrong_constant_fails(kernel: Kernel) -> None:
    x = every_code(np.int8, len(ROWS))
    cases = [unary(x, ROWS, -3, np.full_like(ROWS, y_scale), 120) for y_scale in (1 / 128, 0.013, 1e-4, 1e6)]
    harness.wrong_constants_are_noticed(kernel, cases, same=["SigmoidSteps/greatest_j"])  # keeps products in int32


def test_a_wrong_constant_of_silu_fails() -> None:
    x = every_code(np.int8, len(ROWS))
    cases = [unary(x, ROWS, -3, ROWS * np.float32(ratio), 9) for ratio in (0.7, 1e6, 0, 1e-3, 500)]
    same = ["SigmoidProduct/least_steep"]  # keeps products in int32
    harness.wrong_constants_are_noticed(KERNELS["IntegerSilu"], cases, same)


@steps
def test_results_rise_with_their_codes(kernel: Kernel) -> None:
    for x_scale in SCALES:
        feeds = unary(every_code(np.uint8)[0], scale(x_scale), 128, scale(1 / 127), 128)
        assert np.all(np.diff(harness.refer(kernel, feeds).astype(int)) >= 0)
