"""``bct-onnx study``: tables, JSON, picture and refusals."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from bct_onnx.cli.tables.study import table
from tests.cli.conftest import Invoke
from tests.runtime import tiny

SMALL = Path("small.onnx")
"""A table of 1600 values and a matrix of 64: what needs no more is quick with it."""


@pytest.fixture
def invoke(invoke: Invoke, sentences: Path, bundled_model: Path) -> Invoke:
    """``invoke(*arguments, code=0)``: the bundled model's sensitivity."""
    onnx.save(tiny.encoder(vocabulary=200), SMALL)
    return lambda *arguments, code=0, model=bundled_model: invoke("study", model, *arguments, code=code)


def cells(output: str, name: str) -> list[str]:
    """The row of that name."""
    return next(line.split()[1:] for line in output.splitlines() if line.startswith(f"{name} "))


def test_table(invoke: Invoke) -> None:
    output = invoke("--only", "lift", "--only", "embeddings", "--rounds", "1", "--shape", "2x8")
    assert [line.split()[0] for line in output.splitlines()[1:4]] == ["ingredient", "lift", "embeddings"]
    assert len(cells(output, "embeddings")) == 8 and cells(output, "embeddings")[:2] == ["2", "1"]
    assert "outputs compared on seeded random inputs; target ort-cpu" in output
    assert "x: times faster than fp32 at 2x8, 1 interleaved rounds, threads 1" in output
    assert "left float by embeddings: 1 x fewer than 1024 values" in output


def test_json_with_a_task(invoke: Invoke) -> None:
    task = ("--task", "classification", "--data", "dev.tsv", "--batch", "2", "--shape", "1x500", "--rounds", "1")
    found = json.loads(invoke("--only", "gelu", "--only", "sigmoid", *task, "--json"))
    assert {name: found[name] for name in ("by", "target", "task", "data", "sequences", "metric", "drop_unit")} == {
        "by": "ingredient",
        "target": "ort-cpu",
        "task": "classification",
        "data": "dev.tsv",
        "sequences": 3,
        "metric": "accuracy",
        "drop_unit": "points",
    }
    assert found["shape"] == [1, 128], "as long as the model can"
    assert set(found["reference"]) == {"accuracy", "f1", "matthews"} and found["left_out"] == []
    row = found["rows"][0]
    assert set(row) == {
        *("name", "text", "places", "changed", "stayed_float", "ratio", "sqnr_db", "exact", "kl", "agreement"),
        *("metrics", "drop", "times_faster_median", "times_faster_min"),
    }
    assert row["text"] == "quantize-intermediates{around=gelu},integer-gelu" and row["places"] == 3
    assert row["changed"]["integer-gelu"] == 3 and row["times_faster_min"] > 0
    assert row["drop"] == found["reference"]["accuracy"] - row["metrics"]["accuracy"]


def test_numbers_but_times_are_the_same_twice(invoke: Invoke) -> None:
    first, second = (invoke("--preset", "w4", "--rounds", "0", "--json", model=SMALL) for _ in range(2))
    assert first == second and json.loads(first)["shape"] is None


def test_a_preset_is_one_more_row(invoke: Invoke) -> None:
    found = json.loads(invoke("--only", "lift", "--preset", "w4", "--rounds", "0", "--json", model=SMALL))
    assert [row["name"] for row in found["rows"]] == ["lift", "w4"]
    found = json.loads(
        invoke("--only", "lift", "--passes", "quantize-embeddings", "--rounds", "0", "--json", model=SMALL)
    )
    assert [row["name"] for row in found["rows"]] == ["lift", "passes"]


def test_by_pass(invoke: Invoke) -> None:
    output = invoke("--by", "pass", "--preset", "w4", "--rounds", "0")
    names = [line.split("  ")[0] for line in output.splitlines()[1:5]]
    assert names == ["pass", "exact passes", "quantize-embeddings", "quantize-weights"]
    assert "share of" in output
    rows = json.loads(invoke("--by", "pass", "--preset", "w4", "--rounds", "0", "--json"))["rows"]
    assert sum(row["share"] for row in rows) == pytest.approx(1.0)


def test_by_tensor(invoke: Invoke) -> None:
    found = json.loads(invoke("--by", "tensor", "--preset", "w4", "--top", "1", "--json"))
    first, second = found["rows"][:2]
    assert first["sqnr_db"] is not None and second["sqnr_db"] is None and len(found["rows"]) == 21
    assert set(first["weight"]) == {"shape", "used_by", "bits", "sqnr_db", "weighted_db"}
    assert found["rounds"] == 0
    output = invoke("--by", "tensor", "--preset", "w4", "--top", "1")
    assert "bert.embeddings.word_embeddings.weight" in output and "6000x128" in output


def test_calibration_data_is_used(invoke: Invoke) -> None:
    def sqnr(*more: object) -> list[Any]:
        arguments = ("--only", "embeddings", "--only", "gelu", "--rounds", "0", "--json", *more)
        return [row["sqnr_db"] for row in json.loads(invoke(*arguments))["rows"]]

    random, text = sqnr(), sqnr("--calibrate", "dev.tsv")
    assert random[0] == text[0] and random[1] != text[1]


def test_picture(invoke: Invoke) -> None:
    arguments = ("--only", "lift", "--only", "embeddings", "--rounds", "0", "--plot")
    invoke(*arguments, "a.svg", model=SMALL)
    invoke(*arguments, "b.svg", model=SMALL)
    drawn = Path("a.svg").read_text(encoding="utf-8")
    assert drawn == Path("b.svg").read_text(encoding="utf-8") and "embeddings" in drawn and " dB" in drawn
    invoke(*arguments, "c.png", model=SMALL)
    assert Path("c.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_made_is_told_before_any_work(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is no name of a picture" in invoke("--plot", "a.txt", code=2)
    assert "folder of the picture does not exist" in invoke("--plot", "no/a.png", code=2)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'bct-onnx[plot]'" in invoke("--plot", "a.png", code=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--by", "layer"], "use ingredient, pass, tensor"),
        (["--only", "gelo"], "did you mean 'gelu'"),
        (["--by", "pass", "--only", "gelu"], "--only is of no use with --by pass"),
        (["--top", "3"], "--top is of no use with --by ingredient"),
        (["--task", "classification"], "--task needs --data"),
        (["--data", "dev.tsv"], "--data needs --task"),
        (["--task", "classification", "--data", "none.tsv"], "none.tsv"),
        (["--task", "sentiment", "--data", "dev.tsv"], "unknown task 'sentiment'"),
        (["--column", "text"], "--column needs --calibrate"),
        (["--only", "embeddings", "--calibrate", "dev.tsv"], "no pass of this pipeline takes calibration data"),
        (["--shape", "8"], "'8' is not a shape"),
        (["--target", "gpu"], "unknown target 'gpu'"),
        (["--by", "pass", "--preset", "w4", "--passes", "quantize-weights"], "cannot go together"),
    ],
)
def test_usage(invoke: Invoke, arguments: list[str], message: str) -> None:
    assert message in invoke(*arguments, code=2)


def test_what_is_left_out_is_told(invoke: Invoke) -> None:
    output = invoke("--only", "embeddings", "--only", "gelu", "--rounds", "0", model=SMALL)
    assert "left out: gelu, this model has no place for it" in output and cells(output, "embeddings")
    assert "gelu: this model has no place for it" in invoke("--only", "gelu", code=1, model=SMALL)


def test_no_such_model(invoke: Invoke) -> None:
    invoke("--only", "gelu", code=3, model=Path("none.onnx"))


def test_columns_without_content_are_left_out(bundled_model: Path) -> None:
    from bct_onnx.study.by_ingredient import by_ingredient, chosen
    from bct_onnx.study.candidates import open_study
    from bct_onnx.study.comparison import Measuring
    from tests.study.test_by_ingredient import quiet

    with open_study(bundled_model, "ort-cpu", Measuring(rounds=0), quiet) as opened:
        headings = [str(column.header).split() for column in table(by_ingredient(opened, chosen(["lift"]))).columns]
    assert [" ".join(words) for words in headings][-1] == "ratio" and ["x", "median"] not in headings
