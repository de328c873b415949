"""Retrieval: rankings and their figures by hand, what is read of a table, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bct_onnx.errors import UsageError
from bct_onnx.runtime.session import session
from bct_onnx.tasks.catalogue import load_task
from bct_onnx.tasks.evaluate import evaluate
from bct_onnx.tasks.labelled import LabelledTexts
from bct_onnx.tasks.retrieval import Retrieval
from bct_onnx.tasks.tokens import Tokens
from tests.runtime import tiny
from tests.tasks.tiny import WORDS, tokenizer

DATA = """query,passage,relevance
good film,the good film,2
good film,bad,0
good film,a film,1
bad,not good,1
bad,bad,3
"""


def task(tmp_path: Path, content: str = DATA, **options: Any) -> Retrieval:
    (tmp_path / "data.csv").write_text(content, encoding="utf-8")
    return Retrieval.load(LabelledTexts(tmp_path / "data.csv", tokenizer(tmp_path), **options))


def figures(gains: list[list[float]], vectors: list[list[float]]) -> dict[str, float]:
    return Retrieval(Tokens.plain([]), np.array(gains, float)).metrics([np.array(one, float) for one in vectors])


def test_figures_by_hand() -> None:
    queries = [[2.0, 0.0], [0.0, 1.0]]
    passages = [[1.0, 0.0], [0.8, 0.6], [0.0, 3.0]]  # the first query ranks them 0, 1, 2, the second 2, 1, 0
    found = figures([[0, 2, 1], [0, 0, 1]], queries + passages)
    first = (2 / math.log2(3) + 1 / math.log2(4)) / (2 / math.log2(2) + 1 / math.log2(3))
    assert found["ndcg@10"] == pytest.approx(100 * (first + 1) / 2)
    assert found["recall@10"] == found["recall@100"] == 100.0


def test_only_ten_places_count() -> None:
    passages = [[math.cos(angle), math.sin(angle)] for angle in np.linspace(0, 1, 12)]
    gains = [0.0] * 12
    gains[9], gains[10] = 1.0, 1.0
    found = figures([gains], [[1.0, 0.0], *passages])
    assert found["recall@10"] == 50.0 and found["recall@100"] == 100.0
    assert found["ndcg@10"] == pytest.approx(100 * (1 / math.log2(11)) / (1 + 1 / math.log2(3)))


def test_queries_without_a_relevant_passage_do_not_count() -> None:
    vectors = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    assert figures([[1, 0], [0, 0]], vectors) == {"ndcg@10": 100.0, "recall@10": 100.0, "recall@100": 100.0}


def test_vectors_that_are_not_finite_have_no_figures() -> None:
    assert all(math.isnan(value) for value in figures([[1.0]], [[math.nan], [1.0]]).values())


def test_texts_are_told_apart_and_all_passages_are_searched(tmp_path: Path) -> None:
    made = task(tmp_path)
    assert len(made.tokens.ids) == 2 + 4
    assert made.gains.tolist() == [[2.0, 0.0, 1.0, 0.0], [0.0, 3.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("content", "gains"),
    [
        ("good film,the film\nbad,not good\n", [[1.0, 0.0], [0.0, 1.0]]),
        ("good film,the film,0.5\nbad,not good,2\n", [[0.5, 0.0], [0.0, 2.0]]),
        ("anchor,positive\ngood film,the film\nbad,not good\n", [[1.0, 0.0], [0.0, 1.0]]),
        ("query,document,score\nbad,bad,1\nbad,bad,4\n", [[4.0]]),
    ],
)
def test_tables(tmp_path: Path, content: str, gains: list[list[float]]) -> None:
    assert task(tmp_path, content).gains.tolist() == gains


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("query,passage,relevance\nbad,bad,0\n", "no passage is relevant"),
        ("query,passage,relevance\nbad,bad,much\n", "'much' is not a number"),
        ("words,others,relevance\nbad,bad,1\n", "cannot tell which column"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        task(tmp_path, content)


def test_a_model_is_scored(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text(DATA, encoding="utf-8")
    made = load_task("retrieval", tmp_path / "data.csv", tokenizer(tmp_path))
    target = session(tiny.encoder(vocabulary=len(WORDS)).SerializeToString())
    (score,) = evaluate({"model": target}, made).values()
    assert list(score.metrics) == ["ndcg@10", "recall@10", "recall@100"]
    assert 0 < score.metrics["ndcg@10"] <= 100 and score.metrics["recall@10"] == 100.0
