import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bct_onnx.errors import UsageError
from bct_onnx.runtime.session import session
from bct_onnx.tasks.classification import Classification
from bct_onnx.tasks.evaluate import evaluate
from bct_onnx.tasks.labelled import LabelledTexts
from bct_onnx.tasks.tokens import Tokens
from tests.runtime import tiny
from tests.tasks.tiny import WORDS, tokenizer

DATA = "sentence\tlabel\ngood film\t1\nbad film\t0\nthe good bad bad film\t1\na good film\t1\nnot\t0\n"


def task(tmp_path: Path, content: str = DATA, name: str = "data.tsv", **options: Any) -> Classification:
    (tmp_path / name).write_text(content)
    return Classification.load(LabelledTexts(tmp_path / name, tokenizer(tmp_path), **options))


def test_a_model_that_counts_words(tmp_path: Path) -> None:
    table = np.zeros((len(WORDS), 2))
    table[WORDS.index("good"), 1] = table[WORDS.index("bad"), 0] = 1.0
    model = session(tiny.classifier(np.eye(2), table).SerializeToString())
    (score,) = evaluate({"model": model}, task(tmp_path), batch=2).values()
    assert score.metrics == pytest.approx({"accuracy": 80.0, "f1": 80.0, "matthews": 100 * 4 / 6})


def test_more_classes_take_the_mean_f1(tmp_path: Path) -> None:
    three = Classification(Tokens.plain([]), np.array([0, 1, 2, 2]))
    figures = three.metrics([0, 1, 2, 1])
    assert figures["accuracy"] == 75.0 and figures["f1"] == pytest.approx(100 * (1 + 2 / 3 + 2 / 3) / 3)


def test_nan_is_never_right() -> None:
    made = Classification(Tokens.plain([]), np.array([0, 1]))
    assert [made.result(np.array(row), 0) for row in ([np.nan, 0.0], [0.0, np.nan], [0.0, 1.0])] == [-1, -1, 1]


def test_pairs_columns_and_limit(tmp_path: Path) -> None:
    text = "id,premise,hypothesis,label\n7,good,bad film,1\n8,a,the,0\n"
    made = task(tmp_path, text, "data.csv")
    assert [ids.tolist() for ids in made.tokens.ids] == [[4, 5, 6], [7, 8]] and made.labels.tolist() == [1, 0]
    chosen = task(tmp_path, text, "data.csv", text=["hypothesis"], label="id", limit=1, max_length=1)
    assert [ids.tolist() for ids in chosen.tokens.ids] == [[5]] and chosen.labels.tolist() == [7]


def test_a_pair_is_preferred_to_one_of_its_texts(tmp_path: Path) -> None:
    made = task(tmp_path, "question,sentence,label\ngood,bad film,1\n", "data.csv")
    assert made.tokens.ids[0].tolist() == [4, 5, 6]


def test_label_names_are_the_models(tmp_path: Path) -> None:
    text = "text,label\ngood,positive\nbad,negative\n"
    with pytest.raises(UsageError, match="names no labels"):
        task(tmp_path, text, "data.csv")
    (tmp_path / "config.json").write_text(json.dumps({"label2id": {"negative": 0, "positive": 1}}))
    assert task(tmp_path, text, "data.csv").labels.tolist() == [1, 0]
    with pytest.raises(UsageError, match="unknown label 'so-so'") as caught:
        task(tmp_path, text + "film,so-so\n", "data.csv")
    assert "negative, positive" in caught.value.why and "data.csv" in caught.value.where


@pytest.mark.parametrize(
    ("outputs", "chosen"),
    [({"hidden": 3, "logits": 2}, "logits"), ({"hidden": 3, "linear_7": 2}, "linear_7"), ({"x": -1}, "x")],
)
def test_output(outputs: dict[str, int], chosen: str) -> None:
    assert Classification(Tokens.plain([]), np.zeros(0)).output(outputs) == chosen


def test_no_output_fits() -> None:
    with pytest.raises(UsageError, match="no classification output"):
        Classification(Tokens.plain([]), np.zeros(0)).output({"hidden": 3})
