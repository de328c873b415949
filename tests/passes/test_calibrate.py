"""What calibration measures is what goes through the model, and it stays beside the values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bct_onnx.graph.canonical import canonical_text
from bct_onnx.runtime.feeds import random_feeds
from bct_onnx.runtime.statistics import KEY, ChannelStatistics
from passes import calibrate
from passes.calibrate import Calibrate
from tests.passes.small import apply, model, normal, ops

TEXT = """g (int64[batch,sequence] input_ids) => (float[batch,sequence,32] y) {
    h = Gather (table, input_ids)
    a = Neg (h)
    y = MatMul (a, w)
}"""
ARRAYS = {"table": normal(40, 64), "w": normal(64, 32, seed=1)}


@pytest.mark.parametrize("samples", [1, 6, 21])
def test_statistics_are_those_of_the_tokens(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[Any] = []

    def recorded(*arguments: Any, **options: Any) -> Any:
        fed.append(random_feeds(*arguments, **options))
        return fed[-1]

    monkeypatch.setattr(calibrate, "random_feeds", recorded)
    target = model(TEXT, **ARRAYS)
    before = canonical_text(target)
    applied = apply(Calibrate(samples=samples, sequence=5, seed=3), target)
    assert canonical_text(target) == before and not applied.modified
    ids = np.concatenate([one["input_ids"] for one in fed])
    assert ids.shape == (samples, 5) and len(np.unique(ids, axis=0)) == samples
    rows = -ARRAYS["table"][ids.reshape(-1)]
    found = target.graph[1].outputs[0].meta[KEY]
    assert isinstance(found, ChannelStatistics) and found.rows == 5 * samples
    np.testing.assert_allclose(found.max_abs, np.abs(rows).max(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.mean_square, np.square(rows, dtype=np.float64).mean(axis=0), rtol=1e-6)
    assert [site.name for site in applied.sites] == ["a"] and f"{5 * samples} random tokens" in applied.sites[0].note


def test_the_same_seed_gives_the_same_figures() -> None:
    found = []
    for seed in (0, 0, 1):
        target = model(TEXT, **ARRAYS)
        apply(Calibrate(seed=seed), target)
        found.append(target.graph[1].outputs[0].meta[KEY].sum_squares)
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])


def test_big_models_are_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "LIMIT", 1000)
    target = model(TEXT, **ARRAYS)
    applied = apply(Calibrate(), target)
    assert not applied.sites and "it is not run" in applied.declined[0].reason
    assert KEY not in target.graph[1].outputs[0].meta


def test_a_model_without_weights_is_not_run() -> None:
    target = model("g (float[n] x) => (float[n] y) { y = Neg (x) }")
    applied = apply(Calibrate(), target)
    assert not applied.sites and not applied.declined and ops(target) == {"Neg": 1}
