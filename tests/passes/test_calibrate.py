"""What calibration measures is what goes through the model, and it stays beside the values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx import registry
from bct_onnx.errors import UsageError
from bct_onnx.graph import shapes
from bct_onnx.graph.canonical import canonical_text
from bct_onnx.runtime import observer
from bct_onnx.runtime.observer import Observer
from bct_onnx.runtime.session import run
from passes import calibrate
from passes.calibrate import Calibrate
from tests.passes.calibrated import ARRAYS, TEXT, measured, statistics
from tests.passes.small import apply, model, normal, ops
from tests.runtime import tiny
from tests.tasks.tiny import tokenizer


@pytest.mark.parametrize(("samples", "fetched"), [(1, 1 << 29), (6, 1 << 29), (21, 1 << 29), (7, 2 * 5 * 128 * 4)])
def test_statistics_are_those_of_the_tokens(samples: int, fetched: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[Any] = []

    def recorded(self: Observer, feeds: Any, **options: Any) -> None:
        fed.append(feeds)
        see(self, feeds, **options)

    see = Observer.see
    monkeypatch.setattr(Observer, "see", recorded)
    monkeypatch.setattr(calibrate, "FETCHED", fetched)
    target = model(TEXT, **ARRAYS)
    before = canonical_text(target)
    applied = apply(Calibrate(samples=samples, sequence=5, seed=3), target)
    assert canonical_text(target) == before and not applied.modified
    assert max(len(one["input_ids"]) for one in fed) == min(samples, 8 if fetched > 10000 else 2)
    ids = np.concatenate([one["input_ids"] for one in fed])
    assert ids.shape == (samples, 5) and len(np.unique(ids, axis=0)) == samples
    rows = -ARRAYS["table"][ids.reshape(-1)]
    found = statistics(target, "a")
    assert found.rows == 5 * samples
    np.testing.assert_array_equal(found.minimum, rows.min(axis=0))
    np.testing.assert_array_equal(found.maximum, rows.max(axis=0))
    np.testing.assert_allclose(found.mean_square, np.square(rows, dtype=np.float64).mean(axis=0), rtol=1e-6)
    assert [site.name for site in applied.sites] == ["a"]
    assert applied.sites[0].note == f"{5 * samples} vectors from random tokens (no data given)"
    assert applied.note == "random tokens (no data given)" and found.random


def test_the_same_seed_gives_the_same_figures() -> None:
    found = []
    for seed in (0, 0, 1):
        target = model(TEXT, **ARRAYS)
        apply(Calibrate(seed=seed), target)
        found.append(statistics(target, "a").sum_squares)
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])


BLOCK = """g (int64[b,s] ids, int64[b,s] attention_mask) => (float[b,s,16] y) {
    one = Constant <value_float = 1.0> ()
    words = Gather (table, ids)
    places = Gather (table, attention_mask)
    e = Add (words, places)
    h = LayerNormalization (e, gain)
    q0 = MatMul (h, wq)   q = Add (q0, bias)
    k = MatMul (h, wk)    v = MatMul (h, wk)
    c = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v)
    r = Add (c, e)
    n = RMSNormalization (r, gain)
    u = MatMul (n, wq)
    half = Sigmoid (u)    silu = Mul (u, half)
    t = Tanh (silu)       f = Gelu (t)
    kt = Transpose <perm = [0, 2, 1]> (k)
    scores = MatMul (f, kt)
    weights = Softmax (scores)
    mixed = MatMul (weights, v)
    z = Neg (mixed)
    y = MatMul (z, wk)
}"""
BLOCK_ARRAYS = {
    "table": normal(40, 16),
    "gain": np.ones(16, np.float32),
    "bias": normal(16, seed=1),
    "wq": normal(16, 16, seed=2),
    "wk": normal(16, 16, seed=3),
}
BLOCK_VALUES = {
    *("words", "places", "e", "h", "q0", "q", "k", "v", "c", "r", "n", "u"),
    *("half", "silu", "t", "f", "scores", "weights", "z"),
}


def test_what_is_measured() -> None:
    target = model(BLOCK, **BLOCK_ARRAYS)
    applied = apply(Calibrate(sequence=5, products=True), target)
    assert measured(target) == BLOCK_VALUES, "not mixed, kt, the mask or the model's output"
    assert [site.name for site in applied.sites] == ["h", "n", "z"]
    assert {name for name in BLOCK_VALUES if statistics(target, name).products is not None} == {"h", "n", "z"}
    scores = statistics(target, "scores")
    assert scores.minimum.shape == (1,) and scores.rows == 8 * 5 * 5 and scores.minimum < scores.maximum
    assert all(statistics(target, name).minimum.shape == (16,) for name in BLOCK_VALUES - {"scores", "weights"})
    assert all(statistics(target, name).rows == 40 for name in BLOCK_VALUES - {"scores", "weights"})


def test_the_same_from_numpy(tmp_path: Path) -> None:
    ids = np.random.default_rng(1).integers(0, 40, (5, 7))
    mask = (np.arange(7) < np.array([3, 7, 1, 5, 3])[:, None]).astype(np.int64)
    np.savez(tmp_path / "d.npz", ids=ids, attention_mask=mask)
    target = model(BLOCK, **BLOCK_ARRAYS)
    applied = apply(Calibrate(data=str(tmp_path / "d.npz"), samples=9, products=True), target)
    e = BLOCK_ARRAYS["table"][ids[mask == 1]].astype(np.float64) + BLOCK_ARRAYS["table"][1]
    h = (e - e.mean(axis=1, keepdims=True)) / np.sqrt(e.var(axis=1, keepdims=True) + 1e-5)
    for name, wanted in {"e": e, "h": h, "q0": h @ BLOCK_ARRAYS["wq"]}.items():
        found = statistics(target, name)
        assert found.rows == 19 and not found.random, "what is padded does not count"
        np.testing.assert_allclose(found.minimum, wanted.min(axis=0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.maximum, wanted.max(axis=0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.mean_square, np.square(wanted).mean(axis=0), rtol=1e-4)
    products = statistics(target, "h").products
    assert products is not None
    np.testing.assert_allclose(products, h.T @ h, rtol=1e-3, atol=1e-3)
    assert applied.note == "5 rows of d.npz (19 tokens)"


def test_other_texts_other_figures(tmp_path: Path) -> None:
    folder, found = tokenizer(tmp_path / "t"), []
    for text in ("good film", "good film", "bad\nnot bad"):
        (tmp_path / "d.txt").write_text(text, encoding="utf-8")
        target = ir.from_proto(tiny.encoder())
        shapes.infer(target)
        apply(Calibrate(data=str(tmp_path / "d.txt"), tokenizer=str(folder)), target)
        found.append(statistics(target, "words"))
    assert np.array_equal(found[0].minimum, found[1].minimum) and found[0].rows == 2
    assert not np.array_equal(found[0].minimum, found[2].minimum) and found[2].rows == 3


@pytest.mark.parametrize("data", [True, False])
def test_no_longer_than_the_model_has_positions_for(data: bool, tmp_path: Path) -> None:
    target = ir.from_proto(tiny.decoder())  # 16 positions
    shapes.infer(target)
    np.savez(tmp_path / "d.npz", tokens=np.arange(40) % 12, lengths=np.array([40]))
    one = Calibrate(data=str(tmp_path / "d.npz")) if data else Calibrate(samples=1)
    apply(one, target)
    assert statistics(target, "both").rows == 16


def test_data_of_another_model(tmp_path: Path) -> None:
    target = model(TEXT, **ARRAYS)
    np.savez(tmp_path / "d.npz", input_ids=np.array([[4, 40]]))
    with pytest.raises(UsageError, match="does not run on the data") as caught:
        apply(Calibrate(data=str(tmp_path / "d.npz")), target)
    assert "40" in caught.value.why and "tokenizer" in caught.value.fix and not measured(target)


def test_big_models_are_run_only_on_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "LIMIT", 1000)
    np.savez(tmp_path / "d.npz", input_ids=np.zeros((1, 4), np.int64))
    target = model(TEXT, **ARRAYS)
    applied = apply(Calibrate(), target)
    assert not applied.sites and "it is not run" in applied.declined[0].reason and not applied.note
    assert not measured(target)
    with_data = Calibrate(data=str(tmp_path / "d.npz"))
    apply(with_data, target)
    assert statistics(target, "a").rows == 4
    monkeypatch.setattr(calibrate, "IN_MEMORY_LIMIT", 1000)
    with pytest.raises(UsageError, match="the data cannot be used"):
        apply(with_data, target)


def test_a_model_with_nothing_to_measure_is_not_run() -> None:
    target = model("g (float[n] x) => (float[n] y) { y = Neg (x) }")
    applied = apply(Calibrate(), target)
    assert not applied.sites and not applied.declined and ops(target) == {"Neg": 1}


def test_a_model_that_does_not_run_on_random_tokens() -> None:
    target = model(
        "g (float[n,4] x, float[m,4] c) => (float[n,4] y) { a = Sub (x, c)  y = MatMul (a, w) }", w=normal(4, 4)
    )
    reshaped = model(
        "g (float[n,4] x) => (float[7,4] y) { a = Reshape (x, dims)  y = MatMul (a, w) }",
        w=normal(4, 4),
        dims=np.array([7, 4]),
    )
    assert not apply(Calibrate(), target).declined
    applied = apply(Calibrate(), reshaped)
    assert "cannot run the model" in applied.declined[0].reason and not applied.sites


@pytest.mark.parametrize(
    "one",
    [
        Calibrate(data="my data/a, b {c}.tsv", tokenizer='the "folder"', column=("sentence1", "sentence2"), samples=3),
        Calibrate(data="C:\\data\\x.csv", tokenizer="t", column=("0",)),
        Calibrate(data="données.txt", tokenizer="."),
    ],
)
def test_the_pipeline_text_holds_the_data(one: Calibrate) -> None:
    assert registry.parse(str(one)).passes == registry.parse(one.full_text()).passes == (one,)


def test_the_stamp_has_no_folders() -> None:
    one = Calibrate(data="/home/me/reviews.tsv", tokenizer="/home/me/model", samples=3)
    assert (
        "/" not in one.stamp_text()
        and "data=reviews.tsv tokenizer=tokenizer.json column= samples=3" in one.stamp_text()
    )
    assert Calibrate().stamp_text() == Calibrate().full_text() and not Calibrate().reads()
    assert one.reads() == {"data": Path("/home/me/reviews.tsv"), "tokenizer": Path("/home/me/model/tokenizer.json")}


@pytest.mark.parametrize(
    "options", [{"tokenizer": "t"}, {"column": ("a",)}, {"samples": -1}, {"sequence": -1}], ids=str
)
def test_options_that_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Calibrate(**options)


def test_products_of_what_a_tied_table_is_multiplied_with() -> None:
    target = model(
        """g (int64[batch,sequence] input_ids) => (float[batch,sequence,40] y) {
            h = Gather (table, input_ids)
            a = Neg (h)
            w = Transpose <perm = [1, 0]> (table)
            y = MatMul (a, w) }""",
        table=normal(40, 64),
    )
    applied = apply(Calibrate(products=True), target)
    assert [site.name for site in applied.sites] == ["a"] and statistics(target, "a").products is not None


def test_large_values_are_handed_out_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []

    def counted(target: Any, feeds: Any, names: Any = None) -> Any:
        runs.append(len(names))
        return run(target, feeds, names)

    found = []
    for limit in (1 << 29, 1000):
        runs.clear()
        monkeypatch.setattr(observer, "run", counted)
        monkeypatch.setattr(calibrate, "FETCHED", limit)
        target = model(BLOCK, **BLOCK_ARRAYS)
        apply(Calibrate(samples=1, sequence=5), target)
        found.append((len(runs), {name: statistics(target, name).sum_squares for name in BLOCK_VALUES}))
    assert found[0][0] < 5 and found[1][0] > 6
    for name in BLOCK_VALUES:
        np.testing.assert_array_equal(found[0][1][name], found[1][1][name])
