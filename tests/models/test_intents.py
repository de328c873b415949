"""Requests with intents and tags, as ``models/finetune.py`` learns them and ``compare`` reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bct_onnx.tasks.tagged import read_tagged
from models import finetune, intents


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    """A folder of two requests, beside the names of all labels."""
    files = {
        "intent_label.txt": "UNK\nPlayMusic\nGetWeather\n",
        "slot_label.txt": "PAD\nUNK\nO\nB-artist\nI-artist\n",
        "train/seq.in": "play miles davis \nis it raining\n",
        "train/label": "PlayMusic\nGetWeather\n",
        "train/seq.out": "O B-artist I-artist\nO O O \n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / "train"


def test_intents_are_classes(requests: Path, tmp_path: Path) -> None:
    task = finetune.task_of(requests)
    assert isinstance(task, finetune.Classes)
    assert task.names == ("PlayMusic", "GetWeather") and task.count == 2
    task.write(tmp_path / "rows.csv")
    assert finetune.read(tmp_path / "rows.csv") == [(("play miles davis",), 0), (("is it raining",), 1)]


def test_tags_are_lines_of_words(requests: Path, tmp_path: Path) -> None:
    task = finetune.task_of(requests, slots=True)
    assert task.count == 3
    task.write(tmp_path / "rows.conll")
    tagged = read_tagged(tmp_path / "rows.conll")
    assert list(zip(tagged.words, tagged.tags, strict=True)) == intents.tagged(requests)


def test_the_first_token_of_a_word_has_its_tag(requests: Path) -> None:
    class Encoded(dict[str, Any]):
        def word_ids(self, row: int) -> list[int | None]:
            return [[None, 0, 1, 1, 2, None], [None, 0, 1, None, None, None]][row]

    def tokenizer(words: list[list[str]], **options: object) -> Encoded:
        assert options["is_split_into_words"]
        return Encoded(input_ids=[[0] * 6] * len(words))

    task = finetune.task_of(requests, slots=True)
    labels = task.batch(tokenizer, [0, 1])["labels"]
    assert labels == [[-100, 0, 1, -100, 2, -100], [-100, 0, 0, -100, -100, -100]], "a word that was cut off has none"


@pytest.mark.export
def test_tags_are_learned(requests: Path, checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    from tests.models.test_finetune import with_tokenizer

    start = with_tokenizer(checkpoint(), tmp_path / "start")
    task = finetune.task_of(requests, slots=True)
    steps = list(finetune.finetune(start, task, tmp_path / "made", finetune.Course(epochs=12, rate=1e-3)))
    assert steps[-1][1] < steps[0][1]
    assert '"B-artist"' in (tmp_path / "made" / "config.json").read_text(encoding="utf-8")
