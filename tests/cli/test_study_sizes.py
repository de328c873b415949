"""``bct-onnx study --by size``: lines as they come, JSON, going on, picture and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bct_onnx import registry
from tests.cli.conftest import Invoke

DATA = ("--task", "classification", "--data", "dev.tsv")


@pytest.fixture
def invoke(invoke: Invoke, sentences: Path, bundled_model: Path) -> Invoke:
    """``invoke(*arguments, code=0)``: the bundled model's frontier."""
    return lambda *arguments, code=0: invoke("study", bundled_model, "--by", "size", *arguments, code=code)


def test_lines_and_json_and_going_on_and_picture(invoke: Invoke) -> None:
    small = (*DATA, "--preset", "w4a8-nearest", "--ratio", "8", "--resume", "rows.json")
    output = invoke(*small, "--only", "fp32,nearest,ort-nbits4")
    lines = output.splitlines()
    assert lines[0].split()[:4] == ["ratio", "bits", "MB", "accuracy"] and lines[0].endswith("slowest step")
    assert lines[1].split()[:3] == ["fp32", "1.00", "32.00"] and " exact " in lines[1]
    assert lines[2].startswith("nearest 4 bit") and lines[2].endswith(" s")
    assert lines[2].split("  ")[-1].split()[0] in registry.PASSES  # which one is slowest depends on the machine
    assert lines[3].startswith("ort-nbits4") and lines[3].endswith("4 bit block 32, embeddings too")
    assert "classification, 3 sequences of dev.tsv; target ort-cpu" in output

    kept = json.loads(Path("rows.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in kept["rows"]] == ["fp32", "nearest 4 bit", "ort-nbits4"]
    again = json.loads(invoke(*small, "--only", "nearest", "--only", "ort-nbits4", "--json", "--plot", "a.svg"))
    assert again["rows"] == kept["rows"][1:], "seconds and all: nothing was made again"
    assert again["metric"] == "accuracy" and again["model"] == "model.onnx"
    drawn = Path("a.svg").read_text(encoding="utf-8")
    assert "times smaller by parameters" in drawn and "ort-nbits4" in drawn and "accuracy" in drawn
    invoke(*small, "--only", "nearest,ort-nbits4", "--plot", "b.svg")
    assert Path("b.svg").read_text(encoding="utf-8") == drawn


def test_a_failure_is_a_line(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Path("onnxsim.py")
    broken.write_text("raise ImportError('not for this machine\\nat all')", encoding="utf-8")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    output = invoke(*DATA, "--only", "onnxsim-int4", "--only", "fp32")
    assert "\nonnxsim-int4  failed: not for this machine\n" in output and output.startswith(" ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*DATA, "--only", "nearst"), "did you mean 'nearest'"),
        ((*DATA, "--without", "smoth"), "did you mean 'smooth'"),
        ((*DATA, "--calibrate", "random", "--without", "text"), "there is no 'text' to leave out"),
        ((*DATA, "--ratio", "40"), "between 1 and 32"),
        ((*DATA, "--column", "0"), "--column needs --calibrate"),
        ((*DATA, "--plot", "a.txt"), "is no name of a picture"),
        (("--task", "classification", "--data", "none.tsv"), "none.tsv"),
        ((*DATA, "--preset", "w4", "--calibrate", "dev.tsv"), "no pass of this pipeline takes calibration data"),
        ((*DATA, "--only", "fp32", "--resume", "dev.tsv"), "the results cannot be read"),
        ((*DATA, "--target", "gpu", "--only", "fp32"), "unknown target 'gpu'"),
    ],
)
def test_usage(invoke: Invoke, arguments: tuple[str, ...], message: str) -> None:
    assert message in invoke(*arguments, code=2)
