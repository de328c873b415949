"""``bct-onnx bench --texts``: real texts, padding and all."""

import json
import re
from pathlib import Path

import onnx
import pytest

from tests.cli.conftest import Invoke
from tests.runtime import tiny
from tests.tasks.tiny import WORDS, tokenizer


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A table of three texts, two models and their tokenizer in one folder."""
    for seed, name in enumerate("ab"):
        onnx.save(tiny.encoder(seed, len(WORDS)), str(tmp_path / f"{name}.onnx"))
    tokenizer(tmp_path)
    table = tmp_path / "texts.tsv"
    table.write_text("good film\tbad\nnot a film\tgood\ngood\tnot bad\n", encoding="utf-8")
    return table


def test_texts_beside_another_tool(invoke: Invoke, texts: Path) -> None:
    arguments = ("a.onnx", "b.onnx", "--against", "ort-dynamic", "--texts", texts, "--batch", 2, "--rounds", 2)
    result = json.loads(invoke("bench", *arguments, "--threads", "1,2", "--json"))
    assert result["texts"]["tokens"] == 6 and result["texts"]["real"] == 6 / (2 * 3 + 1)
    assert len(result["models"]) == 3 and result["threads"] == [1, 2]
    for row in result["models"]:
        assert [time["threads"] for time in row["texts"]] == [1, 2] and row["latency"] == []
        for time in row["texts"]:
            assert time["runs"] == 2 and 0 < time["min_ms"] <= time["median_ms"]
            assert time["texts_per_s"] == pytest.approx(3e3 / time["median_ms"])
            assert time["tokens_per_s"] == pytest.approx(2 * time["texts_per_s"])


def test_the_table_tells_padding(invoke: Invoke, texts: Path) -> None:
    printed = invoke("bench", "a.onnx", "--texts", texts, "--batch", 2, "--order", "file", "--column", "0,1")
    assert re.search(r"^model .* threads +texts/s +tokens/s +median ms", printed)
    assert "3 texts of texts.tsv in 2 batches of 2, in file order: 10 tokens are 90.9 % of all positions" in printed
    assert "threads 1, rounds 3" in printed


def test_a_model_of_fixed_sizes_takes_texts_in_more_runs(invoke: Invoke, texts: Path) -> None:
    fixed = tiny.with_fixed(tiny.encoder(0, len(WORDS)), batch=1, sequence=4)
    onnx.save(fixed, str(texts.parent / "fixed.onnx"))
    assert "fixed.onnx takes them in 3 runs" in invoke("bench", "a.onnx", "fixed.onnx", "--texts", texts, "--batch", 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--order", "sorted"), "--order is of no use without --texts"),
        (("--texts", "texts.tsv", "--shape", "1x4"), "--shape is of no use with --texts"),
        (("--texts", "texts.tsv", "--order", "any"), "unknown order 'any'"),
        (("--texts", "texts.tsv", "--by-pass"), "--texts is of no use with --by-pass"),
        (("--threads", "two"), "'two' is not a number of threads"),
        (("--threads", "1,2", "--by-pass"), "one number of threads at a time"),
    ],
)
def test_usage(invoke: Invoke, texts: Path, arguments: tuple[str, ...], message: str) -> None:
    assert message in invoke("bench", "a.onnx", *arguments, code=2)
