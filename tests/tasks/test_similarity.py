import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bct_onnx.errors import UsageError
from bct_onnx.runtime.session import run, session
from bct_onnx.tasks.evaluate import evaluate
from bct_onnx.tasks.labelled import LabelledTexts
from bct_onnx.tasks.similarity import Similarity, correlations
from bct_onnx.tasks.tokens import Batch, Tokens
from tests.runtime import tiny
from tests.tasks.tiny import WORDS, tokenizer

DATA = "good film,good film,5.0\ngood film,bad,1.0\na film,the film,4.0\nnot good,a bad film,0.5\n"


def task(tmp_path: Path, content: str = DATA, pooling: str | None = None, **options: Any) -> Similarity:
    (tmp_path / "data.csv").write_text(content)
    return Similarity.load(LabelledTexts(tmp_path / "data.csv", tokenizer(tmp_path), **options), pooling)


def test_sentences_are_first_ones_then_second_ones(tmp_path: Path) -> None:
    made = task(tmp_path)
    assert [ids.tolist() for ids in made.tokens.ids[:5]] == [[4, 6], [4, 6], [7, 6], [9, 4], [4, 6]]
    assert made.scores.tolist() == [5.0, 1.0, 4.0, 0.5]


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_figures_are_those_of_single_sentences(tmp_path: Path, batch: int) -> None:
    made, target = task(tmp_path), session(tiny.encoder(vocabulary=len(WORDS)).SerializeToString())
    vectors = []
    for ids in made.tokens.ids:
        feeds = {"input_ids": ids[None], "attention_mask": np.ones_like(ids[None]), "token_type_ids": 0 * ids[None]}
        vectors.append(run(target, feeds)[0][0].mean(axis=0))
    cosine = [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(vectors, vectors[4:], strict=False)]
    ranks = [sorted(values).index(value) for values in (cosine, made.scores.tolist()) for value in values]
    (score,) = evaluate({"model": target}, made, batch=batch).values()
    assert score.metrics["pearson"] == pytest.approx(100 * np.corrcoef(cosine, made.scores)[0, 1], abs=1e-3)
    assert score.metrics["spearman"] == pytest.approx(100 * np.corrcoef(ranks[:4], ranks[4:])[0, 1], abs=1e-3)


def test_mean_ignores_padding_and_pooled_outputs_are_taken_as_they_are() -> None:
    mask = np.array([[1, 1, 0], [0, 0, 0]])
    batch = Batch(np.array([0, 1]), mask, mask, mask)
    made = Similarity(Tokens.plain([]), np.zeros(0))
    hidden = np.array([[[1.0], [3.0], [100.0]], [[7.0], [7.0], [7.0]]], np.float32)
    assert np.array(made.rows(hidden, batch)).tolist() == [[2.0], [0.0]]
    assert np.array(made.rows(np.ones((2, 4), np.float32), batch)).tolist() == np.ones((2, 4)).tolist()


@pytest.mark.parametrize(("pooling", "expected"), [("first", [[1.0], [7.0]]), ("last", [[3.0], [7.0]])])
def test_other_poolings(pooling: str, expected: Any) -> None:
    mask = np.array([[1, 1, 0], [0, 0, 0]])
    made = Similarity(Tokens.plain([]), np.zeros(0), pooling)
    hidden = np.array([[[1.0], [3.0], [100.0]], [[7.0], [7.0], [7.0]]], np.float32)
    assert np.array(made.rows(hidden, Batch(np.array([0, 1]), mask, mask, mask))).tolist() == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [({"pooling_mode_cls_token": True}, "first"), ({"pooling_mode_lasttoken": True}, "last"), ({}, "mean")],
)
def test_pooling_is_what_the_checkpoint_says(tmp_path: Path, config: Any, expected: str) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(config))
    assert task(tmp_path).pooling == expected
    assert task(tmp_path, pooling="last").pooling == "last"


def test_embeddings_that_are_not_finite_or_all_the_same_have_no_correlation() -> None:
    for predicted in (np.array([1.0, np.nan]), np.array([1.0, 1.0])):
        assert all(np.isnan(value) for value in correlations(predicted, np.array([0.0, 1.0])).values())


@pytest.mark.parametrize(
    ("outputs", "chosen"),
    [
        ({"token_embeddings": 3, "sentence_embedding": 2}, "sentence_embedding"),
        ({"pooled": 2, "last_hidden_state": 3}, "last_hidden_state"),
        ({"pooled": 2}, "pooled"),
    ],
)
def test_output(outputs: dict[str, int], chosen: str) -> None:
    assert Similarity(Tokens.plain([]), np.zeros(0)).output(outputs) == chosen


def test_no_output_fits() -> None:
    with pytest.raises(UsageError, match="no embedding output"):
        Similarity(Tokens.plain([]), np.zeros(0)).output({"image": 4})


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (DATA, {"text": ["0"]}, "two text columns"),
        ("a,b,1\n", {}, "two rows"),
        ("a,b,high\nc,d,low\n", {}, "'high' is not a number"),
        (DATA, {"pooling": "max"}, "mean, first, last"),
        ("sentence1,b,score\nx,y,1\nx,y,1\n", {}, "--text"),
    ],
)
def test_data_that_does_not_fit(tmp_path: Path, content: str, options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        task(tmp_path, content, **options)
