"""Two factors have the least error of the product on what was measured, and none where the weight has their rank."""

from __future__ import annotations

import numpy as np
import pytest

from bct_onnx.errors import UsageError
from bct_onnx.registry import parse
from bct_onnx.runtime.statistics import KEY, ChannelStatistics
from passes.factorize import Factorize
from tests.passes import small

TEXT = "g (float[n,64] x) => (float[n,96] y) { y = MatMul (x, w) }"


def test_a_weight_of_that_rank_is_met() -> None:
    weight = small.normal(64, 12, seed=1) @ small.normal(12, 96, seed=2)
    model, x = small.model(TEXT, w=weight), small.normal(5, 64, seed=3)
    small.apply(Factorize(rank=12), model)
    np.testing.assert_allclose(small.outputs(model, x=x)["disabled"][0], x @ weight, atol=1e-3)


def test_inputs_say_what_counts() -> None:
    """Inputs with a few large channels lose less where these were measured."""
    weight = small.normal(64, 96, seed=1)
    loud = np.where(np.arange(64) < 8, 10.0, 0.1).astype(np.float32)
    model, plain = small.model(TEXT, w=weight), small.model(TEXT, w=weight)
    seen = small.normal(4096, 64, seed=2) * loud
    model.graph.inputs[0].meta[KEY] = ChannelStatistics.of(seen, products=True)
    for each in (model, plain):
        small.apply(Factorize(rank=16), each)
    x = small.normal(50, 64, seed=4) * loud
    errors = [np.square(small.outputs(each, x=x)["disabled"][0] - x @ weight).sum() for each in (model, plain)]
    assert errors[0] < errors[1] / 5


def test_a_rank_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="rank=0 is not allowed"):
        parse("factorize{rank=0}")
