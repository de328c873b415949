from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bct_onnx.integer.add_layer_norm import KERNELS, UNIT, add_layer_norm_bound, exact_add_layer_norm
from tests.integer import harness, normalizing
from tests.integer.harness import Array, Feeds

(KERNEL,) = KERNELS
ROW_SCALES = [[0.004], [0.02], [0.1]]


def feeds(
    a: Array, a_scale: Any, b: Array, b_scale: Any, epsilon: float = 1e-12, y_scale: float = 0.03, **others: Array
) -> Feeds:
    found = {"a": a, "b": b, "y_zero_point": np.array(128, np.uint8), **normalizing.affine(a.shape[-1])}
    scalars = normalizing.floats(a_scale=a_scale, b_scale=b_scale, epsilon=epsilon, y_scale=y_scale)
    return {**found, **scalars, **others}


def check(case: Feeds, y: Array) -> float:
    """Asserts the bound; returns the greatest error in steps of the output."""
    a, b = (case[name] * case[f"{name}_scale"].astype(np.float64) for name in "ab")
    gamma, beta = (case[name].astype(np.float64) for name in ("gamma", "beta"))
    _, error = normalizing.errors(case, y, exact_add_layer_norm(a, b, gamma, beta, float(case["epsilon"])))
    bound = add_layer_norm_bound(*(case[name] for name in KERNEL.inputs[:-1]))
    assert np.all(error <= bound * (1 + 1e-6)), (error / bound).max()
    return float(error.max() / case["y_scale"])


def normal(*shape: int, deviation: float = 25, outlier: float = 1, seed: int = 0) -> Array:
    x = np.random.default_rng(seed).normal(0, deviation, shape)
    x[..., 1] *= outlier
    return np.clip(x.round() + 128, 0, 255).astype(np.uint8)


def spikes(length: int) -> Array:
    x = np.zeros((5, length), np.uint8)
    x[0, 0], x[1, ::2], x[2], x[3, :5] = 255, 255, 255, 1
    return x


CASES = {
    "uint8": feeds(harness.random_codes(2, 3, 384), 0.02, harness.random_codes(2, 3, 384, seed=1), 0.03),
    "int8, scales per row": feeds(
        harness.random_codes(3, 384, dtype=np.int8),
        ROW_SCALES,
        harness.random_codes(3, 384, dtype=np.int8, seed=1),
        0.01,
    ),
    "both scales per row": feeds(
        normal(2, 3, 768), [ROW_SCALES] * 2, normal(2, 3, 768, seed=1), [ROW_SCALES[::-1]] * 2
    ),
    "outlier channel": feeds(normal(9, 768, deviation=4, outlier=30), 0.2, normal(9, 768, seed=1), 0.03),
    "4096": feeds(harness.random_codes(4, 4096), 0.1, harness.random_codes(4, 4096, seed=1), 0.23, y_scale=0.04),
    "few codes": feeds(normal(4, 4096, deviation=1), 0.2, normal(4, 4096, deviation=1, seed=1), 0.2, y_scale=0.05),
    "spikes": feeds(spikes(4096), 1, spikes(4096), 1, y_scale=0.25),
    "they cancel": feeds(spikes(4096), 1, 255 - spikes(4096), 1),
    "epsilon dominates": feeds(normal(4, 384), 1e-5, normal(4, 384, seed=1), 1e-6, epsilon=1e-5, y_scale=0.01),
    "epsilon buries everything": feeds(spikes(4096), 1e-12, spikes(4096), 1e-12, epsilon=1),
    "one column": feeds(harness.random_codes(3, 1), 0.1, harness.random_codes(3, 1, seed=1), 0.2),
    "one row": feeds(harness.random_codes(16), 0.1, harness.random_codes(16, seed=1), 0.2),
    "steep gamma": feeds(normal(2, 64), 1.0, normal(2, 64, seed=1), 1.0, y_scale=2e-3),
    "flat gamma": feeds(normal(2, 64), 1.0, normal(2, 64), 1.0, y_scale=1.0, gamma=np.full(64, 1e-3, np.float32)),
}


@pytest.mark.parametrize("name", CASES)
def test_three_engines_agree_and_the_bound_holds(name: str) -> None:
    error = check(CASES[name], normalizing.agree(KERNEL, CASES[name]))
    assert error < (1 if name == "steep gamma" else 0.8)


@pytest.mark.parametrize("length", [2, 16, 384, 4096])
@pytest.mark.parametrize("epsilon", [1e-12, 1e-5, 1.0])
def test_the_bound_holds_at_every_scale(length: int, epsilon: float) -> None:
    for a_scale in (1e-9, 1e-6, 1e-3, 1.0, 1e3):
        for ratio in (0.05, 0.8, 1.0, 7.0):
            for deviation in (3, 30, 300):
                a, b = (normal(3, length, deviation=deviation, seed=seed) for seed in (0, 1))
                case = feeds(a, a_scale, b, a_scale * ratio, epsilon)
                check(case, harness.refer(KERNEL, case))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), min_size=3, max_size=9), st.floats(0.1, 10))
def test_any_row(row: list[tuple[int, int]], ratio: float) -> None:
    a, b = (np.array(codes, np.uint8) for codes in zip(*row, strict=True))
    x = a + ratio * b
    if x.std() > max(1, ratio) / 100:  # else outside of the valid range
        case = feeds(a, 0.01, b, 0.01 * ratio)
        check(case, harness.refer(KERNEL, case))


def test_rows_of_equal_codes_give_beta() -> None:
    codes = harness.every_code(np.uint8).T.repeat(384, 1)
    case = feeds(codes, 0.02, codes[::-1], 0.01)
    want = np.rint(case["beta"] / case["y_scale"]) + 128
    np.testing.assert_array_equal(harness.refer(KERNEL, case), np.broadcast_to(want, codes.shape))


def test_a_row_does_not_depend_on_the_others() -> None:
    case = CASES["outlier channel"]
    alone = harness.refer(KERNEL, {**case, "a": case["a"][1:2], "b": case["b"][1:2]})
    np.testing.assert_array_equal(alone, harness.refer(KERNEL, case)[1:2])


def test_it_is_integer_between_codes() -> None:
    harness.integer(KERNEL)


def test_a_wrong_constant_is_noticed() -> None:
    names = ("4096", "int8, scales per row", "epsilon dominates", "few codes")
    cases = [CASES[name] for name in names]
    cases.append(feeds(normal(9, 64), 1e-3, normal(9, 64, seed=1), 3e-4, epsilon=1e-5, y_scale=1e-3))
    cases.append(feeds(normal(9, 4096), 2e-6, normal(9, 4096, seed=1), 3e-6, epsilon=1e-5, y_scale=1e-3))
    cases.append(feeds(normal(9, 384), 1.0, 255 - normal(9, 384), 0.9995))  # they nearly cancel: not valid, but limited
    cases.extend(normalizing.absurd(CASES["flat gamma"], UNIT))
    harness.wrong_constants_are_noticed(KERNEL, cases, SAME)


SAME = (
    "IntegerSquareRoot/constant_3",  # Newton's iteration arrives from other starts as well, in more steps
    "IntegerSquareRoot/constant_8",
    "IntegerSquareRoot/last",  # the axis -1
    "IntegerAddLayerNorm/last",
)
