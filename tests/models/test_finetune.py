"""``models/finetune.py``: a pair classifier of a checkpoint, and rows that ``eval`` reads."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from models import finetune

PAIRS = [
    ("a man plays", "a man plays a guitar", 4),
    ("snow falls", "the sun, at noon", 0),
    ('she "reads"', "reading", 2),
]


def test_scores_become_classes(tmp_path: Path) -> None:
    with (tmp_path / "scores.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([(*PAIRS[0][:2], "3.8"), (*PAIRS[1][:2], "0.5"), (*PAIRS[2][:2], "1.6")])
    assert finetune.read(tmp_path / "scores.csv") == PAIRS
    finetune.write(PAIRS, tmp_path / "classes.csv")
    assert finetune.read(tmp_path / "classes.csv") == PAIRS


@pytest.mark.export
def test_training_learns_and_is_saved(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    start = tmp_path / "start"
    shutil.copytree(checkpoint(), start)
    words = Tokenizer(WordLevel({"[UNK]": 0, "[PAD]": 1, "man": 2, "plays": 3, "snow": 4, "sun": 5}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(start)
    steps = list(finetune.finetune(start, PAIRS, tmp_path / "made", epochs=12))
    assert [number for number, _ in steps] == list(range(12))
    assert steps[-1][1] < steps[0][1]
    assert {file.name for file in (tmp_path / "made").iterdir()} >= {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
    }
