from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bct_onnx.integer.normalize import UNIT
from bct_onnx.integer.rms_norm import KERNELS, exact_rms_norm, rms_norm_bound
from tests.integer import harness, normalizing
from tests.integer.harness import Array, Feeds
from tests.integer.test_layer_norm import TOP, extreme, normal, outliers, tiny

(KERNEL,) = KERNELS


def feeds(
    x: Array, x_scale: Any, zero_point: int = 0, epsilon: float = 1e-6, y_scale: float = 0.03, **others: Array
) -> Feeds:
    zero_points = {"x_zero_point": np.array(zero_point, x.dtype), "y_zero_point": np.array(128, np.uint8)}
    found = {"x": x, "gamma": normalizing.affine(x.shape[-1])["gamma"], **zero_points}
    return {**found, **normalizing.floats(x_scale=x_scale, epsilon=epsilon, y_scale=y_scale), **others}


def check(case: Feeds, y: Array) -> float:
    """Asserts the bound; returns the greatest error in steps of the output."""
    x, zero_point, x_scale, gamma = (
        case[name].astype(np.float64) for name in ("x", "x_zero_point", "x_scale", "gamma")
    )
    exact = exact_rms_norm(x_scale * (x - zero_point), gamma, float(case["epsilon"]))
    _, error = normalizing.errors(case, y, exact)
    bound = rms_norm_bound(exact, case["gamma"], case["y_scale"])
    assert np.all(error <= bound * (1 + 1e-6)), (error / bound).max()
    return float(error.max() / case["y_scale"])


CASES = {
    "uint8": feeds(harness.random_codes(2, 3, 384), 0.02, 131),
    "int8, scale per row": feeds(harness.random_codes(3, 384, dtype=np.int8), [[0.001], [0.1], [1]], -7),
    "int32": feeds(normal(4, 768, 4000), 1e-3),
    "whole range": feeds(np.random.default_rng(0).integers(-TOP, TOP, (4, 4096)).astype(np.int32), 1e-4, y_scale=0.02),
    "outlier channel": feeds(outliers(), 1e-3),
    "constant rows, two of zeros": feeds(tiny(), 0.02, 77),
    "extreme rows": feeds(extreme(), 1e-7, epsilon=1e-5, y_scale=0.5),
    "epsilon dominates": feeds(normal(4, 384, 50), 1e-6, epsilon=1e-5, y_scale=0.01),
    "epsilon buries everything": feeds(extreme(), 1e-12, epsilon=1),
    "one column": feeds(harness.random_codes(3, 1), 0.1),
    "one row": feeds(harness.random_codes(16), 0.1),
    "steep gamma": feeds(normal(2, 64, 99), 1.0, y_scale=1e-3, y_zero_point=np.array(3, np.uint8)),
    "flat gamma": feeds(normal(2, 64, 99), 1.0, y_scale=1.0, gamma=np.full(64, 1e-3, np.float32)),
}


@pytest.mark.parametrize("name", CASES)
def test_three_engines_agree_and_the_bound_holds(name: str) -> None:
    assert check(CASES[name], normalizing.agree(KERNEL, CASES[name])) < 0.8


@pytest.mark.parametrize("length", [1, 2, 16, 384, 4096])
def test_the_bound_holds_at_every_magnitude(length: int) -> None:
    for epsilon in (1e-12, 1e-5, 1.0):
        for x_scale in (1e-9, 1e-6, 1e-3, 1.0, 1e3):
            for deviation in (1, 30, 1e3, 1e5, 3e6):
                case = feeds(np.clip(normal(3, length, deviation), -TOP, TOP), x_scale, epsilon=epsilon)
                check(case, harness.refer(KERNEL, case))


@given(st.lists(st.integers(-TOP, TOP), min_size=1, max_size=9), st.floats(1e-9, 1e3), st.floats(1e-12, 1))
def test_any_row(row: list[int], x_scale: float, epsilon: float) -> None:
    case = feeds(np.array(row, np.int32), x_scale, epsilon=epsilon)
    check(case, harness.refer(KERNEL, case))


def test_a_row_of_zeros_gives_zeros() -> None:
    case = feeds(np.full((3, 384), 77, np.uint8), 0.02, 77)
    assert np.all(harness.refer(KERNEL, case) == 128)


def test_it_is_integer_between_codes() -> None:
    harness.integer(KERNEL)


@harness.ZERO_DIVISOR
def test_a_wrong_constant_is_noticed() -> None:
    names = ("extreme rows", "int8, scale per row", "constant rows, two of zeros", "epsilon dominates", "one column")
    cases = [*(CASES[name] for name in names), *normalizing.absurd(CASES["flat gamma"], UNIT)]
    cases.extend(feeds(extreme(256), x_scale, epsilon=1e-5, y_scale=0.2) for x_scale in (1e-9, 1e-12))
    for name in ("whole range", "int32"):
        cases.append({**CASES[name], **normalizing.floats(y_scale=0.002)})
    nothing = "IntegerRMSNorm/nothing"  # 0: nothing is cut off where no mean is taken
    starts = "IntegerSquareRoot/constant_8"  # Newton arrives from others as well; test_square_root checks each
    harness.wrong_constants_are_noticed(KERNEL, cases, (*normalizing.SAME, "IntegerRMSNorm/last", nothing, starts))
