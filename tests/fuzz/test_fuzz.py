"""A slice of the fuzzing that ``python -m tests.fuzz`` does for as long as wanted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.fuzz.cases import Case, _damaged
from tests.fuzz.running import CHECKOUT, Runner

CASES = 24


@pytest.mark.whole
def test_odd_models_end_well_or_in_our_own_errors() -> None:
    kinds = set()
    with Runner() as runner:
        for number in range(CASES):
            case = Case(7, number)
            verdict = runner.judge(case)
            assert not verdict.failed, f"--seed 7 --only {number}: {case}\n{verdict.kind}\n{verdict.detail}"
            kinds.add(verdict.kind)
    assert "done, outputs finite" in kinds and len(kinds) > 5


@pytest.mark.whole
def test_a_process_that_ends_is_a_failure_and_the_next_case_is_judged() -> None:
    with Runner(seconds=0.0) as runner:
        assert runner.judge(Case(7, 0)).kind.startswith("takes more than")
    with Runner() as runner:
        runner.judge(Case(7, 0))
        process = runner._process
        assert process is not None
        process.kill()
        process.wait()
        assert not runner.judge(Case(7, 0)).failed


def test_all_of_a_file_may_be_gone() -> None:
    """Before the next damage is done to it."""
    assert all(_damaged(b"ab", np.random.default_rng(seed)) for seed in range(200))


def test_a_case_is_the_same_every_time(tmp_path: Path) -> None:
    written = []
    for name in "ab":
        (tmp_path / name).mkdir()
        written.append([Case(1, number).write(tmp_path / name).read_bytes() for number in range(20)])
    assert written[0] == written[1]
    plain = Case(1, 0, kept=())
    assert onnx.load(plain.write(tmp_path / "a"), load_external_data=False).graph.node


@pytest.mark.whole
def test_a_case_that_computes_for_ever_ends() -> None:
    """Processor time counts, so that a busy machine makes no failure."""
    line = json.dumps([0, 0, False, None, True, 0.01])
    worker = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.worker"], check=False, input=line, text=True, cwd=CHECKOUT
    )
    assert worker.returncode == -signal.SIGPROF
