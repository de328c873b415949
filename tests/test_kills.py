"""A few of the killed runs that ``python -m tests.kills`` makes as many of as wanted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.whole
def test_killed_runs_leave_nothing_half_done() -> None:
    command = [sys.executable, "-m", "tests.kills", "--kills", "6", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 runs ended" in done.stdout and "no partial output was seen" in done.stdout
