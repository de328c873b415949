"""Runs that end before they are done, by a full disk or a signal: an exit code, a word, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bct_onnx import cli


@pytest.mark.parametrize("limit", [100_000, 600_000], ids=["while passes run", "while the result is written"])
def test_a_full_disk(limit: int, bundled_model: Path, tmp_path: Path) -> None:
    """A limit on the size of files fails writes where a full disk would."""
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    done = run_program(tmp_path, code, "rewrite", str(bundled_model), "-o", "out.onnx", "--no-check", "--preset", "w4")
    out, err = done.communicate(timeout=120)
    assert (done.returncode, out) == (5, ""), err
    assert "free some space" in err and "Traceback" not in err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stage", ["quantize-weights", "writing"])
def test_a_signal_during_the_run(stage: str, number: signal.Signals, bundled_model: Path, tmp_path: Path) -> None:
    """The signal is sent by the run itself, so that it comes at the stage that is meant."""
    code = f"""
import contextlib, os
from bct_onnx.cli import progress as module
@contextlib.contextmanager
def progress(*, enabled):
    yield lambda label, done, total: os.kill(os.getpid(), {int(number)}) if label == {stage!r} else None
module.progress = progress
"""
    run = ("rewrite", str(bundled_model), "-o", "out.onnx", "--no-check", "--preset", "w4")
    done = run_program(tmp_path, code, *run, "--keep-passes", "kept")
    out, err = done.communicate(timeout=120)
    assert (done.returncode, out, err) == (128 + number, "", "interrupted; nothing was written\n")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_from_outside(bundled_model: Path, tmp_path: Path) -> None:
    done = run_program(tmp_path, "", "rewrite", str(bundled_model), "-o", "out.onnx")
    while not any(tmp_path.iterdir()) and done.poll() is None:
        time.sleep(0.01)
    time.sleep(0.05)
    done.send_signal(signal.SIGTERM)
    _, err = done.communicate(timeout=120)
    assert done.returncode == 143 and "nothing was written" in err
    assert list(tmp_path.iterdir()) == []


def run_program(folder: Path, code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start ``bct-onnx`` in ``folder`` after running ``code``."""
    script = f"import sys\n{code}\nfrom bct_onnx import cli\nsys.exit(cli.main({list(arguments)!r}))"
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, env=env
    )
