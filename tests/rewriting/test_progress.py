"""Long work says what it is at, from within its passes and its check."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bct_onnx.progress import listening, tell, told
from bct_onnx.rewriting import Options, rewrite

MODEL = Path(__file__).resolve().parents[2] / "models" / "tiny-bert-sst2" / "model.onnx"


def test_runs_of_calibration_tensors_and_check_are_told() -> None:
    seen: list[tuple[str, int, int]] = []
    pipeline = "normalize,fold-constants,calibrate{samples=9 sequence=16},quantize-weights,clean-up"
    rewrite(MODEL, pipeline, target="portable", options=Options(progress=lambda *step: seen.append(step)))
    labels = [label for label, _, _ in seen]
    assert any(re.fullmatch(r"calibrate: run 2 of 2, 1x16", label) for label in labels), labels
    assert any(re.fullmatch(r"quantize-weights: tensor \d+", label) for label in labels), labels
    assert any(re.fullmatch(r"input model: run 1 of \d, \d+x\d+", label) for label in labels), labels
    assert any(label.startswith("check: run") for label in labels), labels
    assert all(done <= total for _, done, total in seen)


def test_nothing_is_told_once_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    with listening(print):
        tell("inside")
    tell("outside")
    assert list(told([{"x": [1.0]}], 1)) == [{"x": [1.0]}]
    assert capsys.readouterr().out == "inside\n"
