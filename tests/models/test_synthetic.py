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
import pytest

from models import synthetic

SCRIPT = Path(str(synthetic.__file__))


pytestmark = pytest.mark.whole


def write(path: Path, *arguments: object) -> int:
    """The exit code of the script, run in this process."""
    return synthetic.main([str(path), *map(str, arguments)])


def write_apart(path: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(path), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_small_one(tmp_path: Path, ort_session: Callable[..., ort.InferenceSession]) -> None:
    options = ("--gigabytes", 0.001, "--hidden", 64, "--vocabulary", 100)
    paths = [tmp_path / name for name in ("a.onnx", "b.onnx")]
    done = write_apart(paths[0], *options)
    assert (done.returncode, done.stderr) == (0, "") and "5 layers" in done.stdout
    assert write(paths[1], *options) == 0
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


def test_a_file_per_tensor_is_the_same_model(tmp_path: Path) -> None:
    options = ("--gigabytes", 0.0005, "--hidden", 64, "--vocabulary", 100)
    assert write(tmp_path / "one.onnx", *options) == 0
    assert write(tmp_path / "many.onnx", *options, "--many-files") == 0
    many, one = onnx.load(tmp_path / "many.onnx"), onnx.load(tmp_path / "one.onnx")
    big = {tensor.name for tensor in many.graph.initializer if len(tensor.raw_data) > 1 << 10}
    assert big == {path.name for path in tmp_path.iterdir() if path.suffix != ".onnx"}
    pairs = zip(many.graph.initializer, one.graph.initializer, strict=True)
    assert all(left.name == right.name and left.raw_data == right.raw_data for left, right in pairs)


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken.onnx").touch()
    assert write(tmp_path / "taken.onnx", "--gigabytes", 0.001, "--hidden", 64, "--vocabulary", 100) == 2
    assert "exists" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        write(tmp_path / "m.onnx", "--gigabytes", 0.1)
    assert "too small for one layer" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"taken.onnx"}
