from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bct_onnx.integer.layer_norm import KERNELS, exact_layer_norm, layer_norm
from bct_onnx.integer.normalize import UNIT, gamma_steps, normalize_bound
from tests.integer import harness, normalizing
from tests.integer.harness import Array, Feeds

(KERNEL,) = KERNELS
TOP = 2**24 - 1


def feeds(x: Array, x_scale: Any, epsilon: float = 1e-12, y_scale: float = 0.03, **others: Array) -> Feeds:
    found = {"x": x, "y_zero_point": np.array(128, np.uint8), **normalizing.affine(x.shape[-1])}
    return {**found, **normalizing.floats(x_scale=x_scale, epsilon=epsilon, y_scale=y_scale), **others}


def check(case: Feeds, y: Array) -> float:
    """Asserts the bound; returns the greatest error in steps of the output."""
    x, x_scale, gamma, beta = (case[name].astype(np.float64) for name in ("x", "x_scale", "gamma", "beta"))
    exact = exact_layer_norm(x * x_scale, gamma, beta, float(case["epsilon"]))
    _, error = normalizing.errors(case, y, exact)
    bound = normalize_bound(exact, case["gamma"], case["beta"], case["y_scale"])
    assert np.all(error <= bound * (1 + 1e-6)), (error / bound).max()
    return float(error.max() / case["y_scale"])


def normal(rows: int, length: int, deviation: float, mean: float = 0, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(mean, deviation, (rows, length)).round().astype(np.int32)


def outliers() -> Array:
    x = normal(6, 768, 4000, mean=-300)
    x[:, 5] *= 30
    return x


def tiny() -> Array:
    x = np.full((5, 384), 77, np.uint8)
    x[1, 3], x[2, :100], x[3], x[4, ::2] = 78, 70, 0, 255
    return x


def extreme(length: int = 4096) -> Array:
    x = np.zeros((5, length), np.int32)
    x[0, 0], x[1, ::2], x[1, 1::2], x[2], x[3, 0], x[4, :7] = TOP, TOP, -TOP, -TOP, -TOP, 1
    return x


CASES = {
    "uint8": feeds(harness.random_codes(2, 3, 384), 0.02),
    "int8, scale per row": feeds(harness.random_codes(3, 384, dtype=np.int8), [[0.001], [0.1], [1]], epsilon=1e-5),
    "int32": feeds(normal(4, 768, 4000, mean=1e6), 1e-3),
    "whole range": feeds(np.random.default_rng(0).integers(-TOP, TOP, (4, 4096)).astype(np.int32), 1e-4, y_scale=0.02),
    "outlier channel": feeds(outliers(), 1e-3, gamma=np.ones(768, np.float32)),
    "constant and nearly constant rows": feeds(tiny(), 0.02),
    "extreme rows": feeds(extreme(), 1e-7, epsilon=1e-5, y_scale=0.5),
    "epsilon dominates": feeds(normal(4, 384, 50), 1e-6, epsilon=1e-5, y_scale=0.01),
    "epsilon buries everything": feeds(extreme(), 1e-12, epsilon=1),
    "two columns": feeds(harness.random_codes(3, 2), 0.1),
    "one column": feeds(harness.random_codes(3, 1), 0.1),
    "one row": feeds(harness.random_codes(16), 0.1),
    "zero point, steep gamma": feeds(normal(2, 64, 99), 1.0, y_scale=1e-3, y_zero_point=np.array(3, np.uint8)),
    "flat gamma": feeds(normal(2, 64, 99), 1.0, y_scale=1.0, gamma=np.full(64, 1e-3, np.float32)),
}


@pytest.mark.parametrize("name", CASES)
def test_three_engines_agree_and_the_bound_holds(name: str) -> None:
    assert check(CASES[name], normalizing.agree(KERNEL, CASES[name])) < 0.56


@pytest.mark.parametrize("length", [2, 3, 16, 384, 4096])
@pytest.mark.parametrize("epsilon", [1e-12, 1e-5, 1.0])
def test_the_bound_holds_at_every_magnitude(length: int, epsilon: float) -> None:
    for x_scale in (1e-9, 1e-6, 1e-3, 1.0, 1e3):
        for deviation in (1, 30, 1e3, 1e5, 3e6):
            x = np.clip(normal(3, length, deviation, mean=deviation), -TOP, TOP)
            case = feeds(x, x_scale, epsilon)
            check(case, harness.refer(KERNEL, case))


@given(st.lists(st.integers(-TOP, TOP), min_size=2, max_size=9), st.floats(1e-9, 1e3), st.floats(1e-12, 1))
def test_any_row(row: list[int], x_scale: float, epsilon: float) -> None:
    case = feeds(np.array(row, np.int32), x_scale, epsilon)
    check(case, harness.refer(KERNEL, case))


@pytest.mark.parametrize("length", [3, 8, 64, 1024])
def test_statistics_of_every_size_agree(length: int) -> None:
    tops = (2 ** np.linspace(0, 23.99, 300)).astype(np.int64)
    rows = np.random.default_rng(0).integers(-tops[:, None], tops[:, None] + 1, (300, length))
    case = feeds(rows.astype(np.int32), 1e-3, epsilon=1e-6)
    check(case, normalizing.agree(KERNEL, case, levels=("disabled", "all")))


def test_a_row_of_equal_codes_gives_beta() -> None:
    case = feeds(harness.every_code(np.uint8).T.repeat(384, 1), 0.02)
    want = np.rint(case["beta"] / case["y_scale"]) + 128
    np.testing.assert_array_equal(harness.refer(KERNEL, case), np.broadcast_to(want, (256, 384)))


def test_a_row_does_not_depend_on_the_others() -> None:
    case = dict(CASES["int32"])
    alone = harness.refer(KERNEL, {**case, "x": case["x"][1:2]})
    np.testing.assert_array_equal(alone, harness.refer(KERNEL, case)[1:2])


def test_scale_and_shift_of_a_row_do_not_matter() -> None:
    x = harness.random_codes(3, 384).astype(np.int32)
    case = feeds(x, 0.02)
    moved = {**case, "x": x * 64 + 1000, **normalizing.floats(x_scale=0.02 / 64)}
    assert np.abs(harness.refer(KERNEL, case) - harness.refer(KERNEL, moved).astype(int)).max() <= 1


def test_gamma_has_at_least_six_bits() -> None:
    affine = normalizing.affine(4096)
    assert gamma_steps(UNIT, affine["gamma"], affine["beta"], np.array(0.02, np.float32)) >= 64


def test_it_is_integer_between_codes() -> None:
    harness.integer(KERNEL)


@harness.ZERO_DIVISOR
def test_a_wrong_constant_is_noticed() -> None:
    names = (
        "extreme rows",
        "int8, scale per row",
        "constant and nearly constant rows",
        "epsilon dominates",
        "one column",
    )
    cases = [*(CASES[name] for name in names), *normalizing.absurd(CASES["flat gamma"], UNIT)]
    cases.extend(feeds(extreme(256), x_scale, epsilon=1e-5, y_scale=0.2) for x_scale in (1e-9, 1e-12))
    for name in ("whole range", "int32"):
        cases.append({**CASES[name], **normalizing.floats(y_scale=0.002)})
    harness.wrong_constants_are_noticed(KERNEL, cases, (*normalizing.SAME, "IntegerLayerNorm/last"))


def test_the_reference_takes_what_the_graph_takes() -> None:
    assert layer_norm(*(CASES["uint8"][name] for name in KERNEL.inputs)).shape == (2, 3, 384)
