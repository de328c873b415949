"""A user's data becomes model inputs without padding, whatever file it comes in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.errors import UsageError
from bct_onnx.runtime.inputs import Input, inputs_of
from bct_onnx.runtime.session import run, session
from bct_onnx.tasks.samples import Samples, read_samples
from tests.runtime import tiny
from tests.tasks.tiny import tokenizer

ENCODER = inputs_of(ir.from_proto(tiny.encoder()))
DECODER = inputs_of(ir.from_proto(tiny.decoder()))
LINES = ["good film", "bad", "the film", "not good a film"]
IDS = [[2, 4, 6, 3], [2, 5, 3], [2, 8, 6, 3], [2, 9, 4, 7, 6, 3]]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def sequences(samples: Samples, name: str = "input_ids") -> list[list[int]]:
    """The sequences of all batches, in the order of the samples' rows of ids."""
    rows = [row.tolist() for feeds in samples.batches(3) for row in feeds[name]]
    return sorted(rows, key=lambda row: (len(row), row))


def expected(rows: list[list[int]]) -> list[list[int]]:
    return sorted(rows, key=lambda row: (len(row), row))


FILES = {
    "lines.txt": "\n".join([LINES[0], "", *LINES[1:]]) + "\n",
    "named.tsv": "label\tsentence\n" + "".join(f"1\t{line}\n" for line in LINES),
    "bare.csv": "".join(f"{line},1\n" for line in LINES),
    "rows.jsonl": "".join(f'{{"text": "{line}", "label": 0}}\n' for line in LINES),
}


@pytest.mark.parametrize("name", FILES)
def test_texts(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name, FILES[name])
    samples = read_samples(file, ENCODER, tokenizer=tokenizer(tmp_path / "t", special=True))
    assert sequences(samples) == expected(IDS)
    assert samples.source == f"4 rows of {name} (17 tokens)"


def test_a_parquet_file(tmp_path: Path) -> None:
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    parquet.write_table(arrow.table({"label": [0, 1, 0, 1], "text": LINES}), tmp_path / "rows.parquet")
    samples = read_samples(tmp_path / "rows.parquet", ENCODER, tokenizer=tokenizer(tmp_path / "t", special=True))
    assert sequences(samples) == expected(IDS)
    assert samples.source == "4 rows of rows.parquet (17 tokens)"
    (tmp_path / "none.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="cannot read the data"):
        read_samples(tmp_path / "none.parquet", ENCODER, tokenizer=tmp_path / "t")


def test_a_data_set(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": LINES}).save_to_disk(tmp_path / "saved")
    samples = read_samples(tmp_path / "saved", ENCODER, tokenizer=tokenizer(tmp_path / "t", special=True), limit=3)
    assert samples.source == "3 rows of saved (11 tokens)"


@pytest.mark.parametrize(("columns", "text"), [(["mine"], "mine,yours\nbad,good\n"), (["1"], "good,bad\n")])
def test_a_column_by_name_or_number(tmp_path: Path, columns: list[str], text: str) -> None:
    file = write(tmp_path / "d.csv", text)
    samples = read_samples(file, ENCODER, tokenizer=tokenizer(tmp_path / "t"), columns=columns)
    assert sequences(samples) == [[5]]


def test_a_number_under_a_header(tmp_path: Path) -> None:
    file = write(tmp_path / "d.jsonl", '{"x": "good", "y": "bad film"}\n')
    samples = read_samples(file, ENCODER, tokenizer=tokenizer(tmp_path / "t"), columns=["1"])
    assert sequences(samples) == [[5, 6]]


def test_pairs_have_types(tmp_path: Path) -> None:
    file = write(tmp_path / "d.csv", "good,bad film,5\n")
    samples = read_samples(file, ENCODER, tokenizer=tokenizer(tmp_path / "t", special=True), columns=["0", "1"])
    (feeds,) = samples.batches(8)
    assert feeds["input_ids"].tolist() == [[2, 4, 3, 5, 6, 3]]
    assert feeds["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 1]]


def test_batches_are_of_equal_length_and_complete(tmp_path: Path) -> None:
    words = tokenizer(tmp_path / "t")
    lengths = [3, 1, 3, 3, 2, 3, 3]
    file = write(tmp_path / "d.txt", "".join(" ".join(["good"] * n) + "\n" for n in lengths))
    made = list(read_samples(file, ENCODER, tokenizer=words).batches(3))
    assert [feeds["input_ids"].shape for feeds in made] == [(1, 1), (1, 2), (3, 3), (2, 3)]
    assert all(feeds["attention_mask"].all() for feeds in made)
    for feeds in made:
        run(session(tiny.encoder().SerializeToString()), feeds)


def test_no_samples_are_no_batches() -> None:
    assert list(Samples(inputs_of(ir.serde.deserialize_model(tiny.encoder())), (), "nothing").batches(3)) == []


def test_the_limit_takes_rows_from_the_whole_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", input_ids=np.arange(10)[:, None])
    samples = read_samples(tmp_path / "d.npz", ENCODER[:1], limit=4)
    assert sequences(samples) == [[0], [2], [5], [7]] and samples.source == "4 rows of d.npz (4 tokens)"


def test_truncation_keeps_special_tokens_of_texts(tmp_path: Path) -> None:
    file = write(tmp_path / "d.txt", "good bad film\n")
    words = tokenizer(tmp_path / "t", special=True)
    assert sequences(read_samples(file, ENCODER, tokenizer=words, length=4)) == [[2, 4, 5, 3]]
    np.savez(tmp_path / "d.npz", tokens=np.arange(6), lengths=np.array([5, 1]))
    assert sequences(read_samples(tmp_path / "d.npz", ENCODER, length=4)) == [[5], [0, 1, 2, 3]]


def test_arrays_lose_their_padding(tmp_path: Path) -> None:
    ids = np.array([[4, 5, 0, 0], [0, 6, 7, 8], [1, 2, 3, 4], [0, 0, 0, 0]])
    mask = np.array([[1, 1, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]])
    np.savez(tmp_path / "d.npz", input_ids=ids, attention_mask=mask, token_type_ids=ids % 2)
    samples = read_samples(tmp_path / "d.npz", ENCODER)
    assert sequences(samples) == [[4, 5], [6, 7, 8], [1, 2, 3, 4]]
    assert sequences(samples, "token_type_ids") == expected([[0, 1], [0, 1, 0], [1, 0, 1, 0]])
    assert samples.source == "3 rows of d.npz (9 tokens)"


def test_decoders_get_positions_and_empty_caches(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", tokens=np.array([1, 2, 3, 4, 5], np.int16), lengths=np.array([3, 2]))
    runner = session(tiny.decoder().SerializeToString())
    for feeds, length in zip(read_samples(tmp_path / "d.npz", DECODER).batches(8), (2, 3), strict=True):
        assert feeds["position_ids"].tolist() == [list(range(length))] and feeds["attention_mask"].shape == (1, length)
        assert feeds["past_key_values.0.key"].shape == (1, 2, 0, 4)
        assert run(runner, feeds)[0].shape == (1, length, 12)


def test_given_positions_and_caches_are_used(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "input_ids": np.array([[1, 2], [3, 4]]),
        "position_ids": np.array([[3, 4], [3, 4]]),
        "attention_mask": np.ones((2, 5), np.int64),
        "past_key_values.0.key": np.ones((2, 2, 3, 4), np.float32),
    }
    np.savez(tmp_path / "d.npz", **given)
    (feeds,) = read_samples(tmp_path / "d.npz", DECODER).batches(8)
    assert all(np.array_equal(feeds[name], array) for name, array in given.items())


def test_images_need_no_tokens(tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((3, 3, 200, 4)).astype(np.float32)
    np.savez(tmp_path / "d.npz", pixel_values=images)
    declared = [Input("pixel_values", np.dtype(np.float32), ("batch", 3, None, None))]
    samples = read_samples(tmp_path / "d.npz", declared, length=2)
    made = np.concatenate([feeds["pixel_values"] for feeds in samples.batches(2)])
    assert np.array_equal(made, images) and samples.source == "3 rows of d.npz"


def test_a_fixed_length_gets_sequences_end_to_end(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", tokens=np.arange(11), lengths=np.array([3, 1, 5, 2]))
    declared = inputs_of(ir.from_proto(tiny.with_fixed(tiny.encoder(), sequence=4)))
    assert sequences(read_samples(tmp_path / "d.npz", declared)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    long = inputs_of(ir.from_proto(tiny.with_fixed(tiny.encoder(), sequence=12)))
    with pytest.raises(UsageError, match="11 tokens are too few"):
        read_samples(tmp_path / "d.npz", long)


def test_a_fixed_batch_is_filled_with_what_was_there(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", input_ids=np.arange(3)[:, None])
    declared = inputs_of(ir.from_proto(tiny.with_fixed(tiny.encoder(), batch=2)))
    made = [feeds["input_ids"].ravel().tolist() for feeds in read_samples(tmp_path / "d.npz", declared).batches(8)]
    assert made == [[0, 1], [2, 2]]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"input_idz": np.zeros((2, 3), np.int64)}, "did you mean 'input_ids'"),
        ({"input_ids": np.zeros((2, 3), np.float32)}, "dtype float32 does not fit"),
        ({"input_ids": np.zeros(3, np.int64)}, "does not fit"),
        ({"attention_mask": np.ones((2, 3), np.int64)}, "no data for model input 'input_ids'"),
        ({"input_ids": np.zeros((2, 3), np.int64), "attention_mask": np.ones((3, 3), np.int64)}, "different numbers"),
        ({"input_ids": np.zeros((0, 3), np.int64)}, "nothing to calibrate on"),
        ({"input_ids": np.zeros((3, 0), np.int64)}, "nothing to calibrate on"),
        ({"tokens": np.zeros(0, np.int64), "lengths": np.zeros(0, np.int64)}, "nothing to calibrate on"),
        ({"tokens": np.zeros(3, np.int64), "lengths": np.ones(2, np.int64)}, "add up"),
        ({}, "nothing to calibrate on"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(UsageError) as caught:
        read_samples(tmp_path / "d.npz", ENCODER)
    assert caught.match(message) and "d.npz" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "columns", "message"),
    [
        ("d.txt", " \n\n", [], "there is no text"),
        ("d.csv", "", [], "there are no rows"),
        ("d.csv", "sentence,label\n", [], "nothing to calibrate on"),
        ("d.csv", "sentence,label\ngood,1\n", ["sentense"], "did you mean 'sentence'"),
        ("d.csv", "good,1\n", ["5"], "there is no column '5'"),
        ("d.jsonl", '{"x": "good"}\n', [], "--column"),
        ("d.csv", "a,b,c\n", ["0", "1", "2"], "3 columns are too many"),
        ("d.txt", "good\n", ["0"], "only tables have columns"),
    ],
)
def test_texts_that_do_not_fit(tmp_path: Path, name: str, text: str, columns: list[str], message: str) -> None:
    file = write(tmp_path / name, text)
    with pytest.raises(UsageError) as caught:
        read_samples(file, ENCODER, tokenizer=tokenizer(tmp_path / "t"), columns=columns)
    assert caught.match(message) and name in str(caught.value)


def test_texts_without_a_tokenizer_or_a_file(tmp_path: Path) -> None:
    file = write(tmp_path / "d.txt", "good\n")
    with pytest.raises(UsageError, match="--tokenizer"):
        read_samples(file, ENCODER)
    with pytest.raises(UsageError, match=r"tokenizer\.json"):
        read_samples(file, ENCODER, tokenizer=tmp_path)
    for name in ("none.txt", "none.npz", "none.csv"):
        with pytest.raises(UsageError, match="cannot read"):
            read_samples(tmp_path / name, ENCODER, tokenizer=tokenizer(tmp_path / "t"))


def test_texts_for_a_model_that_takes_none(tmp_path: Path) -> None:
    file = write(tmp_path / "d.txt", "good\n")
    with pytest.raises(UsageError, match="no input of token ids"):
        read_samples(file, [Input("x", np.dtype(np.float32), (None, 4))], tokenizer=tokenizer(tmp_path / "t"))
