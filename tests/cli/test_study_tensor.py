"""``bct-onnx study MODEL TENSOR``: text, JSON and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from bct_onnx import cli
from tests.cli.conftest import Invoke
from tests.runtime import tiny

SMALL = Path("small.onnx")
"""A table of 1600 values and a matrix of 64."""


@pytest.fixture
def invoke(invoke: Invoke, sentences: Path) -> Invoke:
    """``invoke(name, *arguments, code=0, model=SMALL)``."""
    onnx.save(tiny.encoder(vocabulary=200), SMALL)
    return lambda *arguments, code=0, model=SMALL: invoke("study", model, *arguments, code=code)


def test_a_weight_of_the_bundled_model(invoke: Invoke, bundled_model: Path) -> None:
    output = invoke("layer.0.output.dense", model=bundled_model)
    lines = [line.strip() for line in output.splitlines()]
    assert lines[0] == "onnx::MatMul_428: matmul, FLOAT 512x128, 0.3 MB, 4.7 % of the parameters"
    assert lines[1] == "used by MatMul /bert/encoder/layer.0/output/dense/MatMul"
    assert lines[3].split() == ["as", "exported", "outliers", "moved"], "balance has divided its columns"
    first = {line.split("  ")[0]: line.split()[1:] for line in reversed(lines)}
    assert len(first["range"]) == 6 and {"inputs that stand out", "channels that stand out"} <= set(first)
    assert "multiplied by /bert/encoder/layer.0/intermediate/intermediate_act_fn/Mul_1_output_0" in lines
    assert "this tensor alone in few bits; outputs compared on seeded random inputs" in lines
    formats = [line.split() for line in lines if line.lstrip("* ").startswith("int")]
    assert [one[-9:-7] for one in formats if "signed" in one] == [
        [f"int{bits}", f"b{block}"] for bits in (2, 3, 4) for block in (32, 64)
    ]
    assert [one[:2] for one in formats if one[0] == "*"] == [["*", "int4"]] and formats[-1][0] == "int8"
    weight, weighted, outputs = (float(one) for one in formats[-1][4:7])
    assert 30 < weight < weighted and outputs > 60 and float(formats[-1][7]) < 1e-6
    assert "quantize-weights       int4 b32 two-level signed, 4.16 bits per weight" in lines


def test_json(invoke: Invoke) -> None:
    found = json.loads(invoke("tab*", "--json", "--preset", "w4", "--target", "portable"))
    assert found["name"] == "table" and found["shape"] == [200, 8] and found["target"] == "portable"
    assert found["outputs_compared_on"] == "seeded random inputs" and "quantize-embeddings" in found["pipeline"]
    assert [one["format"].split()[1] for one in found["trials"]] == ["int2", "int3", "int4", "int8"]  # rows of 8
    assert found["stored"]["format"] == found["trials"][2]["format"]
    assert found["measured"] is None and found["trials"][0]["outputs"]["sqnr_db"] > 5


def test_a_table_without_calibration(invoke: Invoke) -> None:
    output = invoke("table", "--preset", "w4")
    assert "* int4 b32" in output and "* what the pipeline does" in output
    assert output.splitlines()[-1].startswith("  quantize-embeddings    int4")
    assert "multiplied by" not in output and " - " in output, "no weighted error"


def test_what_stays_float(invoke: Invoke) -> None:
    output = invoke("weight", "--preset", "w4")
    assert "multiplied by masked\nnot measured: the pipeline does not calibrate" in output
    assert "the pipeline leaves it float" in output and "int8" in output
    assert "  quantize-weights       not done: fewer than 1024 values" in output


def test_a_pipeline_that_stores_nothing(invoke: Invoke) -> None:
    output = invoke("weight", "--passes", "normalize")
    assert "few bits" not in output and output.splitlines()[-1] == "no pass of the pipeline that may lose has seen it"


def test_data_of_the_user(invoke: Invoke, bundled_model: Path) -> None:
    task = ("--task", "classification", "--data", "dev.tsv", "--limit", "2")
    passes = "normalize,fold-constants,calibrate{samples=2},quantize-weights{keep=*}"
    texts = ("--calibrate", "dev.tsv", "--column", "sentence")
    found = json.loads(invoke("layer.0.output.dense", "--passes", passes, *task, *texts, "--json", model=bundled_model))
    assert found["outputs_compared_on"] == "dev.tsv" and "data=dev.tsv" in found["pipeline"]
    assert found["stored"] is None and found["measured"]["maximum"] > 0
    assert found["trials"][0]["outputs"]["metrics"]["accuracy"] >= 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wieght"], "did you mean 'weight'"),
        (["*"], "fits 3 tensors"),
        (["weight", "--preset", "w5"], "unknown preset 'w5'"),
        (["weight", "--preset", "w4", "--passes", "normalize"], "cannot go together"),
        (["weight", "--task", "classification"], "--task needs --data"),
        (["weight", "--column", "text"], "--column needs --calibrate"),
        (["weight", "--preset", "w4", "--calibrate", "dev.tsv"], "no pass of this pipeline takes calibration data"),
        (["weight", "--target", "gpu"], "unknown target 'gpu'"),
    ],
)
def test_usage(invoke: Invoke, arguments: list[str], message: str) -> None:
    assert message in invoke(*arguments, code=2)


def test_a_model_that_cannot_be_explained(invoke: Invoke, tmp_path: Path) -> None:
    invoke("weight", code=3, model=Path("none.onnx"))
    assert cli.main(["rewrite", str(SMALL), "-o", "w4.onnx", "--preset", "w4", "--no-check", "-q"]) == 0
    assert "already quantized" in invoke("weight", code=3, model=Path("w4.onnx"))
