"""On what calibration runs a model: how much of the data, one sample of any inputs, or made-up ones that are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from passes import calibrate
from passes.calibrate import Calibrate
from tests.passes.calibrated import ARRAYS, TEXT, measured, statistics
from tests.passes.small import apply, model, normal


def test_how_much_is_read_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "RANDOM_SAMPLES", 5)
    monkeypatch.setattr(calibrate, "SAMPLES", 30)
    monkeypatch.setattr(calibrate, "TOKENS", 100)
    target = model(TEXT, **ARRAYS)
    apply(Calibrate(samples=0), target)
    assert statistics(target, "a").rows == 5 * 64
    for count, length, rows in ((12, 4, 12), (40, 2, 30), (40, 10, 10)):
        np.savez(tmp_path / "d.npz", input_ids=np.ones((count, length), np.int64))
        apply(Calibrate(data=str(tmp_path / "d.npz"), samples=0), target)
        assert statistics(target, "a").rows == rows * length


@pytest.mark.parametrize("beside", ["speaker", "picture"])
def test_one_sample_of_any_inputs_is_enough(beside: str, tmp_path: Path) -> None:
    """Where inputs have no axis of samples in common, the file is one sample as it is."""
    if beside == "speaker":
        text = TEXT.replace("input_ids)", "input_ids, int64 speaker)", 1).replace("Neg (h)", "Add (h, r)")
        text = text.replace("a = ", "r = Gather (table, speaker)  a = ")
        feeds = {"input_ids": np.array([[3, 4, 5]]), "speaker": np.array(7)}
        wanted = ARRAYS["table"][[3, 4, 5]] + ARRAYS["table"][7]
        target = model(text, **ARRAYS)
    else:
        target = model("g (float[8,6,64] x) => (float[8,6,32] y) { a = Neg (x)  y = MatMul (a, w) }", w=ARRAYS["w"])
        feeds = {"x": normal(8, 6, 64, seed=5)}
        wanted = -feeds["x"].reshape(-1, 64)
    np.savez(tmp_path / "one.npz", **dict[str, Any](feeds))
    applied = apply(Calibrate(data=str(tmp_path / "one.npz")), target)
    found = statistics(target, "a")
    np.testing.assert_allclose(found.maximum, wanted.max(axis=0), rtol=1e-6)
    assert found.rows == len(wanted) and not found.random and applied.note == "1 sample of one.npz"


def test_lengths_beside_tokens_stay_true(tmp_path: Path) -> None:
    """What is longer than a text usually is stays whole where another input tells its length."""
    text = TEXT.replace("input_ids)", "input_ids, int64[batch] n)", 1).replace("Neg (h)", "Neg (h)  m = Neg (n)")
    np.savez(tmp_path / "d.npz", input_ids=np.ones((2, 300), np.int64), n=np.array([300, 300]))
    target = model(text, **ARRAYS)
    apply(Calibrate(data=str(tmp_path / "d.npz")), target)
    assert statistics(target, "a").rows == 600


def test_nothing_is_decided_by_samples_that_say_nothing() -> None:
    target = model(
        """g (int64[batch,sequence] ids, int64 knob) => (float[batch,sequence,32] y) {
            h = Gather (table, ids)  f = Cast <to = 1> (knob)  a = Mul (h, f)  y = MatMul (a, w) }""",
        **ARRAYS,
    )
    applied = apply(Calibrate(), target)
    assert "'knob'" in applied.declined[0].reason and not measured(target) and not applied.sites
    assert "at run time" in applied.note and "--calibrate FILE.npz" in applied.note


def test_what_inputs_were_taken_for_is_said() -> None:
    target = model(TEXT.replace("input_ids", "text"), **ARRAYS)
    applied = apply(Calibrate(), target)
    assert "text: rows of a table of 40" in applied.note and "--calibrate FILE.npz" in applied.note
