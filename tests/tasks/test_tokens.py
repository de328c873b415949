import json
import sys
from pathlib import Path

import numpy as np
import pytest

from bct_onnx.errors import UsageError
from bct_onnx.tasks.tokens import TextTokenizer, Tokens, batches
from tests.tasks.tiny import tokenizer


def test_texts_and_pairs(tmp_path: Path) -> None:
    made = TextTokenizer(tokenizer(tmp_path, special=True))
    assert [ids.tolist() for ids in made.encode(["good film", "odd"]).ids] == [[2, 4, 6, 3], [2, 1, 3]]
    pair = made.encode(["good"], ["bad film"])
    assert pair.ids[0].tolist() == [2, 4, 3, 5, 6, 3] and pair.types[0].tolist() == [0, 0, 0, 1, 1, 1]


def test_the_tokenizer_decides_on_special_tokens_and_truncation_keeps_them(tmp_path: Path) -> None:
    plain = TextTokenizer(tokenizer(tmp_path / "plain"), 2).encode(["good bad film"])
    special = TextTokenizer(tokenizer(tmp_path / "special", special=True), 3).encode(["good bad film"])
    assert plain.ids[0].tolist() == [4, 5] and special.ids[0].tolist() == [2, 4, 3]


def test_pad_id_is_found(tmp_path: Path) -> None:
    folder = tokenizer(tmp_path)
    assert TextTokenizer(folder).pad == 0
    for named in ("film", {"content": "film"}):
        (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": named}))
        assert TextTokenizer(folder).pad == 6


def test_words_know_where_they_start(tmp_path: Path) -> None:
    made, starts = TextTokenizer(tokenizer(tmp_path, special=True), 5).encode_words(
        [["good-film", "", "a", "the"], ["a"]]
    )
    assert made.ids[0].tolist() == [2, 4, 1, 6, 3] and starts[0].tolist() == [1, -1, -1, -1]
    assert starts[1].tolist() == [1] and made.types[1].tolist() == [0, 0, 0]


def test_missing_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"tokenizer\.json"):
        TextTokenizer(tmp_path)


def test_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tokenizer(tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)  # makes the import fail as if it were not installed
    with pytest.raises(UsageError) as caught:
        TextTokenizer(folder)
    assert caught.value.fix == "pip install 'bct-onnx[text]'" and "'tokenizers'" in caught.value.what


def test_batches_are_sorted_padded_and_complete() -> None:
    lengths = [5, 1, 3, 3, 2, 0, 4]
    ids = tuple(np.arange(10 * i, 10 * i + n) for i, n in enumerate(lengths))
    made = list(batches(Tokens(ids, tuple(np.full(n, 1) for n in lengths), pad=99), 3))
    assert [batch.index.tolist() for batch in made] == [[5, 1, 4], [2, 3, 6], [0]]
    first = made[0]
    assert first.mask.tolist() == [[0, 0], [1, 0], [1, 1]]
    assert first.ids.tolist() == [[99, 99], [10, 99], [40, 41]]
    assert first.types.tolist() == first.mask.tolist()
    for batch in made:
        for row, i in enumerate(batch.index):
            assert batch.ids[row][batch.mask[row] == 1].tolist() == ids[i].tolist()
