from pathlib import Path

import numpy as np
import pytest

from bct_onnx.errors import UsageError
from bct_onnx.tasks.readers import (
    PAIR_COLUMNS,
    TEXT_COLUMNS,
    numbers,
    read_table,
    read_text,
    read_token_sequences,
)
from bct_onnx.tasks.tagged import read_tagged


def file(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_tsv_with_header_keeps_quotes(tmp_path: Path) -> None:
    table = read_table(file(tmp_path, "d.tsv", "sentence\tlabel\n\"half quoted\t1\nit 's, fine\t0\n"))
    assert table.names == ("sentence", "label")
    assert table.column("sentence") == ['"half quoted', "it 's, fine"]
    assert table.text_columns(TEXT_COLUMNS) == ("sentence",) and table.label_column(1) == "label"


def test_csv_without_header(tmp_path: Path) -> None:
    table = read_table(file(tmp_path, "d.csv", 'one,"two, quoted",2.5\nthree,four,5\n'))
    assert table.names == ("0", "1", "2") and not table.header
    assert table.text_columns(PAIR_COLUMNS) == ("0", "1") and table.label_column(2) == "2"
    assert table.column("1") == ["two, quoted", "four"]
    assert numbers(table.column("2"), table.path, "2").tolist() == [2.5, 5.0]


def test_quoted_line_break(tmp_path: Path) -> None:
    assert read_table(file(tmp_path, "d.csv", '"a\nb",1\n')).rows == (("a\nb", "1"),)


def test_named_columns_make_a_header(tmp_path: Path) -> None:
    path = file(tmp_path, "d.csv", "mine,yours\n1,2\n")
    assert len(read_table(path).rows) == 2
    assert read_table(path, ["yours"]).column("yours") == ["2"]


def test_columns_by_number(tmp_path: Path) -> None:
    table = read_table(file(tmp_path, "d.csv", "sentence,7,label\na,b,c\n"))
    assert [table.column(name) for name in ("0", "7", "2")] == [["a"], ["b"], ["c"]]
    assert not read_table(file(tmp_path, "e.csv", "some text,0\n"), ["0"]).header
    with pytest.raises(UsageError, match="there is no column '3'"):
        table.column("3")


def test_json_lines(tmp_path: Path) -> None:
    table = read_table(file(tmp_path, "d.jsonl", '{"text": "a", "label": 1}\n\n{"label": 0, "text": "b"}\n'))
    assert table.column("text") == ["a", "b"] and table.column("label") == ["1", "0"]


def test_byte_order_mark_and_limit(tmp_path: Path) -> None:
    table = read_table(file(tmp_path, "d.csv", "\ufefftext,label\na,1\nb,0\nc,1\n"), limit=2)
    assert table.names == ("text", "label") and table.column("text") == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("d.xlsx", "", "cannot read '.xlsx'"),
        ("d.csv", "", "no rows"),
        ("d.jsonl", "", "no rows"),
        ("d.csv", "a,b\nc\n", "row 2 has 1 columns"),
        ("d.jsonl", '{"a": 1}\nnot json\n', "line 2"),
        ("d.jsonl", '{"a": 1}\n{"b": 1}\n', "same keys"),
        ("d.jsonl", "[1]\n", "same keys"),
    ],
)
def test_what_is_no_table(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_table(file(tmp_path, name, text))
    assert caught.match(message) and name in str(caught.value)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("d.csv", "none.csv"):
        with pytest.raises(UsageError, match="cannot read the data"):
            read_table(tmp_path / name)


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    table = read_table(file(tmp_path, "d.csv", "sentence,labels,x\na,1,2\n"))
    with pytest.raises(UsageError, match="did you mean 'sentence'"):
        table.column("sentense")
    with pytest.raises(UsageError, match="columns: sentence, labels, x"):
        table.column("qqq")
    with pytest.raises(UsageError, match="--text"):
        table.text_columns(PAIR_COLUMNS)
    with pytest.raises(UsageError, match="--label"):
        read_table(file(tmp_path, "e.csv", "sentence,y\na,1\n")).label_column(1)
    with pytest.raises(UsageError, match="--label"):
        read_table(file(tmp_path, "f.csv", "only texts\n")).label_column(1)


@pytest.mark.parametrize("cell", ["x", "", "nan", "inf"])
def test_cells_that_are_no_numbers(tmp_path: Path, cell: str) -> None:
    with pytest.raises(UsageError, match="column 'score', row 2"):
        numbers(["1", cell], tmp_path, "score")


def test_text(tmp_path: Path) -> None:
    assert read_text(file(tmp_path, "a.txt", " one \n two\n")) == " one \n two\n"
    with pytest.raises(UsageError, match="no text"):
        read_text(file(tmp_path, "b.txt", " \n"))


CONLL = "-DOCSTART- -X- O\n\nAnn NNP B-PER\nruns VBZ O\n\n\nParis NNP B-LOC\n"


def test_conll(tmp_path: Path) -> None:
    tagged = read_tagged(file(tmp_path, "a.txt", CONLL))
    assert tagged.words == (("Ann", "runs"), ("Paris",)) and tagged.tags == (("B-PER", "O"), ("B-LOC",))
    assert len(read_tagged(file(tmp_path, "a.conll", CONLL), limit=1).words) == 1


def test_tagged_json_lines(tmp_path: Path) -> None:
    path = file(tmp_path, "a.jsonl", '{"tokens": ["Ann", "runs"], "ner_tags": [1, 0], "pos": ["N", "V"]}\n')
    assert read_tagged(path).tags == (("1", "0"),)
    assert read_tagged(path, "tokens", "pos").tags == (("N", "V"),)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "Ann B-PER\nruns\n", "line 2"),
        ("a.txt", "\n\n", "no rows"),
        ("a.jsonl", '{"tokens": ["a"], "x": [1]}', "columns are tokens, x"),
        ("a.jsonl", '{"tokens": ["a"], "tags": [1, 2]}', "row 1"),
        ("a.jsonl", '{"tokens": "a", "tags": [1]}', "not lists alike"),
    ],
)
def test_what_is_not_tagged(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_tagged(file(tmp_path, name, text))
    assert caught.match(message)


def test_token_sequences(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", tokens=np.arange(6, dtype=np.int16), lengths=np.array([1, 3, 2]))
    sequences = read_token_sequences(tmp_path / "t.npz")
    assert [s.tolist() for s in sequences] == [[0], [1, 2, 3], [4, 5]] and sequences[0].dtype == np.int64
    assert len(read_token_sequences(tmp_path / "t.npz", limit=2)) == 2


def test_token_sequences_that_are_none(tmp_path: Path) -> None:
    np.savez(tmp_path / "short.npz", tokens=np.arange(6), lengths=np.array([1, 3]))
    np.savez(tmp_path / "other.npz", ids=np.arange(6))
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(UsageError, match="add up"):
        read_token_sequences(tmp_path / "short.npz")
    for name in ("other.npz", "text.npz", "none.npz"):
        with pytest.raises(UsageError, match="cannot read token sequences"):
            read_token_sequences(tmp_path / name)


@pytest.mark.real
def test_real_tables(real_dir: Path) -> None:
    dev = read_table(real_dir / "data" / "sst2" / "dev.tsv")
    assert len(dev.rows) == 872 and set(dev.column("label")) == {"0", "1"}
    pairs = read_table(real_dir / "data" / "stsb" / "test.csv")
    assert len(pairs.rows) == 1379 and not pairs.header
    scores = numbers(pairs.column(pairs.label_column(2)), pairs.path, "2")
    assert scores.min() == 0.0 and scores.max() == 5.0
    stories = read_token_sequences(real_dir / "data" / "tinystories" / "stories260k_ids.npz")
    assert len(stories) == 200 and sum(map(len, stories)) == 79455 and all(s[0] == 1 for s in stories)
