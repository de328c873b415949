from pathlib import Path

import numpy as np
import pytest

from bct_onnx.errors import UsageError
from bct_onnx.runtime.session import session
from bct_onnx.tasks.evaluate import evaluate
from bct_onnx.tasks.labelled import LabelledTexts
from bct_onnx.tasks.regression import Regression
from bct_onnx.tasks.tokens import Tokens
from tests.runtime import tiny
from tests.tasks.tiny import WORDS, tokenizer

DATA = "sentence1,sentence2,score\ngood,good film,4.5\ngood,bad,2\nbad,bad film,0\n"


def test_a_model_that_counts_good_words(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text(DATA)
    made = Regression.load(LabelledTexts(tmp_path / "data.csv", tokenizer(tmp_path)))
    table = np.zeros((len(WORDS), 1))
    table[WORDS.index("good")] = 1.0
    model = session(tiny.classifier(np.ones((1, 1)), table).SerializeToString())
    scores = evaluate({"model": model, "again": model}, made, batch=2)
    assert scores["model"].metrics == pytest.approx(
        {"spearman": 100.0, "pearson": 100 * np.corrcoef([2, 1, 0], [4.5, 2, 0])[0, 1]}
    )
    away = scores["again"].deviation
    assert away is not None and (away.sqnr_db, away.kl, away.agreement) == (np.inf, None, None)


def test_more_than_one_number_per_sequence(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text(DATA)
    made = Regression.load(LabelledTexts(tmp_path / "data.csv", tokenizer(tmp_path)))
    model = session(tiny.classifier(np.ones((1, 2)), np.ones((len(WORDS), 1))).SerializeToString())
    with pytest.raises(UsageError, match="classification"):
        evaluate({"model": model}, made)


def test_output_and_rows() -> None:
    made = Regression(Tokens.plain([]), np.zeros(0))
    assert made.output({"hidden": 3, "score": 1}) == "score" and made.output({"x": 2, "logits": 2}) == "logits"
    with pytest.raises(UsageError, match="no regression output"):
        made.output({"hidden": 3})


def test_one_row(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("text,label\ngood,1\n")
    with pytest.raises(UsageError, match="two rows"):
        Regression.load(LabelledTexts(tmp_path / "data.csv", tokenizer(tmp_path)))
