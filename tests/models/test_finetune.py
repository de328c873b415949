"""``models/finetune.py``: a pair classifier of a checkpoint, and rows that ``eval`` reads."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from models import finetune, missing_word

PAIRS = [
    (("a man plays", "a man plays a guitar"), 4),
    (("snow falls", "the sun, at noon"), 0),
    (('she "reads"', "reading"), 2),
]


def test_scores_become_classes(tmp_path: Path) -> None:
    with (tmp_path / "scores.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [*texts, score] for (texts, _), score in zip(PAIRS, ("3.8", "0.5", "1.6"), strict=True)
        )
    assert finetune.read(tmp_path / "scores.csv") == PAIRS
    finetune.write(PAIRS, tmp_path / "classes.csv")
    assert finetune.read(tmp_path / "classes.csv") == PAIRS


def with_tokenizer(checkpoint: Path, folder: Path) -> Path:
    """A copy of a checkpoint in ``folder``, with a tokenizer of a few words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    shutil.copytree(checkpoint, folder)
    words = Tokenizer(WordLevel({"[UNK]": 0, "[PAD]": 1, "man": 2, "plays": 3, "snow": 4, "sun": 5}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)
    return folder


@pytest.mark.export
@pytest.mark.parametrize("texts", [1, 2])
def test_training_learns_and_is_saved(checkpoint: Callable[..., Path], tmp_path: Path, texts: int) -> None:
    start = with_tokenizer(checkpoint(), tmp_path / "start")
    rows = [(row[:texts], kind) for row, kind in PAIRS]
    steps = list(finetune.finetune(start, finetune.Classes(rows), tmp_path / "made", finetune.Course(epochs=12)))
    assert [number for number, _ in steps] == list(range(12))
    assert steps[-1][1] < steps[0][1]
    assert {file.name for file in (tmp_path / "made").iterdir()} >= {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
    }


def test_rows_of_missing_words(tmp_path: Path) -> None:
    lines = ["a b c d e", "b a d c <unk> N", "a a a a", "e d a b b b"]
    words = missing_word.frequent(lines, 3)
    assert words == ["a", "b", "d"]
    rows = missing_word.rows(lines, words, each=2)
    assert [kind for _, kind in rows] == [0, 0, 1, 1, 2, 2] and len(set(rows)) == 6
    assert all(text.replace("[MASK]", words[kind], 1) in lines for text, kind in rows)
