"""The script that writes models of any size writes valid ones, the same every time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

SCRIPT = Path(__file__).parents[2] / "models" / "synthetic.py"


def synthetic(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_small_one(tmp_path: Path, ort_session: Callable[..., ort.InferenceSession]) -> None:
    options = ("--gigabytes", 0.001, "--hidden", 64, "--vocabulary", 100)
    paths = [tmp_path / name for name in ("a.onnx", "b.onnx")]
    for path in paths:
        done = synthetic(path, *options)
        assert (done.returncode, done.stderr) == (0, "")
        assert "5 layers" in done.stdout
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert abs(paths[0].stat().st_size - 1_000_000) < 100_000
    onnx.checker.check_model(str(paths[0]), full_check=True)
    session = ort_session(paths[0])
    ids = np.random.default_rng(0).integers(0, 100, (2, 7))
    mask = np.ones_like(ids)
    short = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    padding = ((0, 0), (0, 3))
    padded = {"input_ids": np.pad(ids, padding), "attention_mask": np.pad(mask, padding)}
    assert short.shape == (2, 7, 64)
    assert np.abs(session.run(None, padded)[0][:, :7] - short).max() < 1e-4


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "taken.onnx").touch()
    done = synthetic(tmp_path / "taken.onnx", "--gigabytes", 0.001, "--hidden", 64, "--vocabulary", 100)
    assert done.returncode == 2
    assert "exists" in done.stderr
    assert synthetic(tmp_path / "m.onnx", "--gigabytes", 0.1).returncode == 2
    assert {path.name for path in tmp_path.iterdir()} == {"taken.onnx"}
