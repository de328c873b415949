"""Texts in batches: what is padding, in which order, and how models without a mask or of fixed sizes take them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bct_onnx.errors import UsageError
from bct_onnx.runtime.inputs import Input
from bct_onnx.tasks.texts import TextBatches
from tests.tasks.tiny import tokenizer

TEXTS = "good\nbad film\na good film\nnot a bad film\ngood good good good good\n"
IDS = Input("input_ids", np.dtype(np.int64), ("batch", "sequence"))
MASK = Input("attention_mask", np.dtype(np.int64), ("batch", "sequence"))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A file of five texts of one to five tokens, its tokenizer beside it."""
    tokenizer(tmp_path)
    path = tmp_path / "texts.txt"
    path.write_text(TEXTS, encoding="utf-8")
    return path


def read(file: Path, **options: Any) -> TextBatches:
    return TextBatches.read(file, file.parent, size=2, **options)


def test_batches_in_file_order(texts: Path) -> None:
    made = read(texts)
    assert [batch.index.tolist() for batch in made.batches] == [[0, 1], [2, 3], [4]]
    assert made.batches[0].mask.tolist() == [[1, 0], [1, 1]]
    assert (made.texts, made.tokens, made.real) == (5, 15, 15 / (4 + 8 + 5))
    assert made.about() == {
        "source": "texts.txt",
        "order": "file",
        "batch": 2,
        "texts": 5,
        "batches": 3,
        "tokens": 15,
        "real": made.real,
    }


def test_orders(texts: Path) -> None:
    lines = texts.read_text(encoding="utf-8").splitlines()
    texts.write_text("\n".join(reversed(lines)), encoding="utf-8")
    in_order = {
        order: [n for batch in read(texts, order=order).batches for n in batch.index] for order in ("file", "sorted")
    }
    assert in_order == {"file": [0, 1, 2, 3, 4], "sorted": [4, 3, 2, 1, 0]}
    drawn = [
        [n for batch in read(texts, order="shuffled", seed=seed).batches for n in batch.index] for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2] and sorted(drawn[2]) == [0, 1, 2, 3, 4]


def test_limit_and_length(texts: Path) -> None:
    made = read(texts, limit=4, length=2)
    assert made.texts == 4 and made.tokens == 1 + 2 + 2 + 2


def test_a_batch_is_one_run_of_a_model_with_a_mask(texts: Path) -> None:
    series = read(texts).series([IDS, MASK])
    assert [len(runs) for runs in series] == [1, 1, 1]
    assert series[0][0]["attention_mask"].tolist() == [[1, 0], [1, 1]]


def test_without_a_mask_texts_of_a_length_run_together(texts: Path) -> None:
    series = read(texts).series([IDS])
    assert [len(runs) for runs in series] == [2, 2, 1]
    assert [feeds["input_ids"].shape for feeds in series[1]] == [(1, 3), (1, 4)]


def test_fixed_sizes_are_filled_up(texts: Path) -> None:
    fixed = [Input(one.name, one.dtype, (1, 6)) for one in (IDS, MASK)]
    series = read(texts).series(fixed)
    assert [len(runs) for runs in series] == [2, 2, 1]
    assert series[0][0]["attention_mask"].tolist() == [[1, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([IDS, Input("pixel_values", np.dtype(np.float32), (None, 3, 8, 8))], "'pixel_values' is not made of tokens"),
        ([Input("signal", np.dtype(np.float32), (None, 80))], "no input of token ids"),
        ([Input(IDS.name, IDS.dtype, (1, 3)), Input(MASK.name, MASK.dtype, (1, 3))], "does not fit"),
    ],
)
def test_what_a_model_cannot_take(texts: Path, inputs: list[Input], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(texts).series(inputs)


def test_an_unknown_order(texts: Path) -> None:
    with pytest.raises(UsageError, match="use file, shuffled, sorted"):
        read(texts, order="random")
