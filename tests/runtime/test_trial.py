"""What outputs depend on is told of large ones without copies of them."""

from __future__ import annotations

import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from bct_onnx.runtime.session import session
from bct_onnx.runtime.understanding.trial import Trial, finite_share
from tests.passes.small import model

LARGE = 1 << 24
"""Elements of an output, which takes 64 MiB."""


def test_a_large_output_is_compared_some_at_a_time() -> None:
    one = model("g (float[1] x) => (float[big] y) { y = Expand (x, shape) }", shape=np.array([LARGE]))
    trial = Trial(session(one), ["y"])
    before = trial.outputs({"x": np.ones(1, np.float32)})
    tracemalloc.start()
    try:
        moved = trial.influence(before, {"x": np.zeros(1, np.float32)})
        assert (moved, finite_share(before)) == (LARGE, 1.0)
        assert tracemalloc.get_traced_memory()[1] < 2 * before[0].nbytes  # one is what the model gave
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_floats_of_all_types_may_be_finite(dtype: Any) -> None:
    assert finite_share([np.array([1, np.nan, np.inf, 2], dtype), np.array([3])]) == 0.5
