"""Codes with a scale per run: none is further off than half a step."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bct_onnx.quant.runs import LONGEST, SHORTEST, coded, length_for
from tests.examples import examples


@examples(40)
@given(st.integers(0, 2**32 - 1), st.integers(-30, 30), st.integers(1, 200))
def test_no_value_is_further_off_than_half_a_step(seed: int, exponent: int, length: int) -> None:
    array = np.random.default_rng(seed).standard_normal((5, length, 2)).astype(np.float32) * np.float32(10.0**exponent)
    coding = coded(array, 2 * length)
    steps = np.abs(array).max(axis=(1, 2)) / 127
    decoded = (coding.codes * coding.scale.astype(np.float32)).reshape(array.shape)
    off = np.abs(decoded - array).max(axis=(1, 2))
    assert np.all(off <= 0.57 * steps), "half a step, and what float16 takes from 127 of them"
    assert coding.error.noise == pytest.approx(np.square(decoded.astype(float) - array).sum())


@examples(60)
@given(st.lists(st.integers(1, 130), min_size=2, max_size=4))
def test_runs_stay_within_an_output_channel(shape: list[int]) -> None:
    length, channel = length_for(shape), math.prod(shape[1:])
    assert channel % length == 0
    assert SHORTEST <= length <= LONGEST or length_for([1, length]) == length, "nothing better divides it"


def test_zeros_stay_zeros() -> None:
    coding = coded(np.zeros((2, 8), np.float32), 8)
    assert not coding.codes.any() and np.all(coding.scale == 1) and coding.error.noise == 0


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_what_is_not_finite_is_said(value: float) -> None:
    assert not coded(np.array([[value, 1], [1, 1]], np.float32), 2).error.sqnr_db >= 0


@pytest.mark.parametrize("size", [1e-12, 1e12])
def test_scales_beyond_float16_are_float32(size: float) -> None:
    array = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32) * np.float32(size)
    coding = coded(array, 32)
    assert coding.scale.dtype == np.float32 and coding.error.sqnr_db > 40
