import json
import math
from typing import Any

import numpy as np
import pytest

from bct_onnx.errors import UsageError
from bct_onnx.runtime import parity as module
from bct_onnx.runtime.feeds import random_feeds
from bct_onnx.runtime.parity import compare_outputs, measure_parity
from bct_onnx.runtime.session import session
from tests.runtime import tiny


def one(reference: Any, candidate: Any) -> Any:
    return compare_outputs([[np.array(reference)]], [[np.array(candidate)]])


def test_figures_are_their_formulas() -> None:
    rng = np.random.default_rng(0)
    r = [rng.standard_normal((3, 4, 5)).astype(np.float32) for _ in range(4)]
    c = [a + rng.normal(0, 0.3, a.shape).astype(np.float32) for a in r]
    parity = compare_outputs(([a] for a in r), ([a] for a in c), source="noise")
    x, y = np.stack(r).astype(float), np.stack(c).astype(float)
    assert parity.max_abs == pytest.approx(np.abs(x - y).max())
    assert parity.rms == pytest.approx(np.sqrt(np.mean((x - y) ** 2)))
    assert parity.sqnr_db == pytest.approx(10 * np.log10((x**2).sum() / ((x - y) ** 2).sum()))
    assert parity.cosine == pytest.approx((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y))
    same = np.mean(x.argmax(-1) == y.argmax(-1))
    assert parity.top1 == pytest.approx(same) and 0 < same < 1
    assert (parity.samples, parity.source, parity.finite, parity.exact) == (4, "noise", True, False)


def test_chunks_do_not_change_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    r, c = rng.standard_normal((2, 7, 3))
    whole = one(r, c).outputs["0"].as_dict()
    monkeypatch.setattr(module, "_CHUNK", 6)
    assert one(r, c).outputs["0"].as_dict() == pytest.approx(whole)


def test_equal_outputs() -> None:
    parity = one([[1.0, 2.0]], [[1.0, 2.0]])
    assert parity.exact and parity.sqnr_db == math.inf and parity.cosine == 1.0 and parity.top1 == 1.0


@pytest.mark.parametrize(
    ("reference", "candidate", "sqnr", "cosine"),
    [([0.0, 0.0], [0.0, 0.0], math.inf, 1.0), ([0.0, 0.0], [1.0, 0.0], -math.inf, 0.0), ([1.0], [-1.0], None, -1.0)],
)
def test_zero_and_opposite(reference: Any, candidate: Any, sqnr: float | None, cosine: float) -> None:
    parity = one(reference, candidate)
    assert parity.cosine == cosine
    assert parity.sqnr_db == pytest.approx(10 * math.log10(1 / 4) if sqnr is None else sqnr)


def test_nan_and_infinity_in_the_same_place_are_equal() -> None:
    values = [[math.nan, math.inf, -math.inf, 1.0]]
    parity = one(values, values)
    assert parity.finite and parity.exact


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_broken_candidate_is_reported(broken: float) -> None:
    parity = one([[1.0, 2.0]], [[broken, 2.5]])
    assert not parity.finite and not parity.exact
    assert parity.max_abs == 0.5, "the rest is still measured"
    assert one([[math.inf]], [[-math.inf]]).finite is False


def test_broken_reference_is_left_out() -> None:
    parity = one([[math.nan, 2.0]], [[1.0, 2.0]])
    assert parity.finite and parity.max_abs == 0.0


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_, np.float16])
def test_any_dtype(dtype: Any) -> None:
    parity = one(np.array([[0, 1, 1]], dtype), np.array([[0, 1, 0]], dtype))
    assert parity.max_abs == 1.0 and parity.top1 == 1.0


def test_top1_needs_two_columns_and_the_total_takes_the_first_such_output() -> None:
    single, logits, other = np.ones((4, 1)), np.eye(4), np.eye(4)
    parity = compare_outputs([[single, logits, other]], [[single, np.eye(4)[[0, 1, 2, 2]], np.eye(4)[::-1]]])
    tops = [p.top1 for p in parity.outputs.values()]
    assert tops == [None, 0.75, 0.0] and parity.top1 == 0.75


def test_total_pools_all_outputs() -> None:
    parity = compare_outputs([{"a": np.array([3.0]), "b": np.array([4.0])}], [[np.array([3.0]), np.array([5.0])]])
    assert list(parity.outputs) == ["a", "b"]
    assert parity.outputs["a"].exact and parity.outputs["b"].max_abs == 1.0
    assert parity.sqnr_db == pytest.approx(10 * math.log10(25)) and parity.rms == pytest.approx(math.sqrt(0.5))


def test_scalars_and_empty_outputs() -> None:
    assert one(1.0, 1.5).max_abs == 0.5
    assert one(np.zeros((2, 0, 4)), np.zeros((2, 0, 4))).exact


@pytest.mark.parametrize(
    ("reference", "candidate", "message"),
    [
        ([[np.ones(1)]], [[np.ones(1), np.ones(1)]], "number of outputs"),
        ([[np.ones((1, 2))]], [[np.ones((2, 1))]], "another shape"),
        ([[np.ones(1)]], [], "number of samples"),
        ([], [[np.ones(1)]], "number of samples"),
        ([], [], "no samples"),
    ],
)
def test_what_cannot_be_compared(reference: Any, candidate: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compare_outputs(reference, candidate)


def test_models_by_position_of_outputs() -> None:
    target = session(tiny.decoder().SerializeToString())
    renamed = tiny.decoder(seed=1)
    other = session(renamed.SerializeToString())
    feeds = [random_feeds(target, batch=2, sequence=4, seed=seed, vocab=12) for seed in range(3)]
    assert measure_parity(target, target, iter(feeds)).exact
    parity = measure_parity(target, other, feeds, source="random")
    assert list(parity.outputs) == ["logits", "present.0.key"]
    assert parity.samples == 3 and parity.max_abs > 0.1


def test_json_has_no_infinity() -> None:
    text = json.dumps(one([1.0, 2.0], [1.0, 2.0]).as_dict(), allow_nan=False)
    assert json.loads(text)["outputs"]["0"]["sqnr_db"] is None
    assert json.loads(text)["exact"] is True


def test_texts_are_compared_for_equality() -> None:
    before = [np.array(["a", "b", "c"], object), np.ones(2)]
    after = [np.array(["a", "b", "x"], object), np.ones(2)]
    parity = compare_outputs([before], [after], names=["label", "score"])
    assert parity.outputs["label"].texts == (2, 3) and not parity.exact and parity.sqnr_db == math.inf
    assert list(parity.telling) == ["score"] and parity.worst[0] == "score"
    assert compare_outputs([before], [before]).exact
    with pytest.raises(UsageError, match="another type"):
        compare_outputs([before], [[np.ones(3), np.ones(2)]])


def test_sequences_maps_and_optionals_are_compared_by_element() -> None:
    before: list[Any] = [[np.ones(2), np.ones((1, 3))], [{1: 0.25, 2: 0.75}], None]
    assert compare_outputs([before], [before]).exact
    after: list[Any] = [[np.ones(2), np.zeros((1, 3))], [{1: 0.5, 2: 0.5}], None]
    found = compare_outputs([before], [after]).outputs
    assert found["0"].max_abs == 1.0 and found["1"].max_abs == 0.25 and found["2"].exact
    for other in ([[np.ones(2)], before[1], None], [before[0], [{1: 0.5, 3: 0.5}], None], [*before[:2], np.ones(1)]):
        with pytest.raises(UsageError):
            compare_outputs([before], [other])


def test_the_worst_output_is_not_hidden_by_a_large_one() -> None:
    rng = np.random.default_rng(0)
    large, small = 1000 * rng.standard_normal((8, 4)), rng.standard_normal((8, 4))
    parity = compare_outputs([[large, small]], [[large, -small]], names=["large", "small"])
    assert parity.sqnr_db > 50 and parity.worst[0] == "small" and parity.worst[1].sqnr_db < -6


def test_correlation_is_of_what_varies() -> None:
    rng = np.random.default_rng(0)
    means, varies = 10 * rng.standard_normal(16), rng.standard_normal((500, 16))
    related, unrelated = varies + rng.standard_normal((500, 16)), rng.standard_normal((500, 16))
    found = [one(means + varies, means + other).correlation for other in (varies, related, unrelated, 0 * varies)]
    assert found[0] == pytest.approx(1) and found[1] == pytest.approx(math.sqrt(0.5), abs=0.03)
    assert abs(found[2]) < 0.05 and found[3] == 0.0
    assert one(means + 0 * varies, means + varies).correlation is None
    chunks = compare_outputs(
        [[means + varies[:100]], [means + varies[100:]]], [[means + related[:100]], [means + related[100:]]]
    )
    assert chunks.correlation == pytest.approx(found[1])


def test_outputs_that_do_not_vary_are_left_out_of_the_total() -> None:
    pair = [np.ones(3), np.array([1.0, 2.0])], [np.ones(3), np.array([1.0, 2.5])]
    parity = compare_outputs([pair[0]], [pair[1]], names=["mask", "y"], silent={"mask": "why"})
    assert parity.outputs["mask"].silent == "why" and list(parity.telling) == ["y"]
    assert parity.sqnr_db == pytest.approx(10 * math.log10(5 / 0.25))
    assert compare_outputs([pair[0]], [pair[1]], names=["mask", "y"], silent={"mask": "a", "y": "b"}).silent == "a"
