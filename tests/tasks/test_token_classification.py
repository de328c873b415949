import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bct_onnx.errors import UsageError
from bct_onnx.runtime.session import session
from bct_onnx.tasks.evaluate import evaluate
from bct_onnx.tasks.labelled import LabelledTexts
from bct_onnx.tasks.token_classification import TokenClassification
from bct_onnx.tasks.tokens import Tokens
from tests.runtime import tiny
from tests.tasks.tiny import WORDS, tokenizer

NAMES = ("O", "B-ADJ", "I-ADJ")
DATA = "the O\ngood B-ADJ\nbad I-ADJ\nfilm O\n\nfilm O\nnot B-ADJ\n"


def task(folder: Path, content: str = DATA, names: tuple[str, ...] = NAMES, **options: Any) -> TokenClassification:
    (folder / "data.txt").write_text(content)
    (folder / "config.json").write_text(json.dumps({"id2label": {str(i): name for i, name in enumerate(names)}}))
    return TokenClassification.load(LabelledTexts(folder / "data.txt", tokenizer(folder, special=True), **options))


def tagger() -> bytes:
    """ "good" begins an adjective, "bad" continues one, and all other words are nothing."""
    model = tiny.encoder(vocabulary=len(WORDS))
    table, weight = np.zeros((len(WORDS), 8)), np.zeros((8, 8))
    table[:, 0], table[WORDS.index("good"), 1], table[WORDS.index("bad"), 2] = 1.0, 2.0, 2.0
    weight[:3, :3] = np.eye(3)
    arrays = {"table": table, "segments": np.zeros((2, 8)), "weight": weight[:, :3]}
    del model.graph.initializer[:]
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items())
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 3
    made: bytes = model.SerializeToString()
    return made


@pytest.mark.parametrize("batch", [1, 2])
def test_entities(tmp_path: Path, batch: int) -> None:
    target = session(tagger())
    scores = evaluate({"model": target, "again": target}, task(tmp_path), batch=batch)
    assert scores["model"].metrics == pytest.approx({"f1": 100 * 2 / 3, "precision": 100.0, "recall": 50.0})
    away = scores["again"].deviation
    assert away is not None and (away.sqnr_db, away.kl, away.agreement) == (np.inf, 0.0, 1.0)


def test_only_the_first_token_of_a_word_counts_and_words_cut_off_are_nothing(tmp_path: Path) -> None:
    made = task(tmp_path, "good-bad B-ADJ\nfilm O\ngood B-ADJ\n", max_length=5)
    assert made.tokens.ids[0].tolist() == [2, 4, 1, 5, 3] and made.starts[0].tolist() == [1, -1, -1]
    assert made.result(np.array([[0.0, 1.0, 0.0]]), 0) == ("B-ADJ", "O", "O")
    assert made.result(np.array([[np.nan, 1.0, 0.0]]), 0) == ("O", "O", "O")


def test_tags_that_are_no_entities(tmp_path: Path) -> None:
    made = task(tmp_path, "good ADJ\nfilm NOUN\na DET\nbad ADJ\n", ("ADJ", "NOUN", "DET"))
    figures = made.metrics([("ADJ", "NOUN", "DET", "NOUN")])
    assert figures == pytest.approx({"accuracy": 75.0, "f1": 100 * (2 / 3 + 2 / 3 + 1) / 3})


def test_numbers_are_the_models_or_the_data_sets(tmp_path: Path) -> None:
    import datasets

    assert task(tmp_path, "good 1\nbad 2\n").tags == (("B-ADJ", "I-ADJ"),)
    kinds = datasets.List(datasets.ClassLabel(names=["B-ADJ", "O", "I-ADJ"]))
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "tags": kinds})
    rows = {"tokens": [["good", "film"]], "tags": [[0, 1]]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    named = TokenClassification.load(LabelledTexts(str(tmp_path / "saved"), tmp_path))
    assert named.tags == (("B-ADJ", "O"),) and named.names == NAMES
    task(tmp_path, "good LABEL_1\n", ("LABEL_0", "LABEL_1", "LABEL_2"))
    unnamed = TokenClassification.load(LabelledTexts(str(tmp_path / "saved"), tmp_path))
    assert unnamed.names == ("B-ADJ", "O", "I-ADJ")


@pytest.mark.parametrize(("tag", "message"), [("B-NOUN", "O, B-ADJ, I-ADJ"), ("7", "'7'")])
def test_tags_the_model_does_not_know(tmp_path: Path, tag: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        task(tmp_path, f"good {tag}\n")


def test_output() -> None:
    made = TokenClassification(Tokens.plain([]), (), (), NAMES)
    assert made.output({"pooled": 2, "tags": 3}) == "tags"
    with pytest.raises(UsageError, match="no output per token"):
        made.output({"logit": 2})
