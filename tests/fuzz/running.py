"""Run cases one after the other in a process of their own, which is started anew when one ends or blocks it."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

from tests.fuzz.cases import Case
from tests.fuzz.grown import GrownCase
from tests.fuzz.judge import Verdict

SECONDS = 120.0
"""Processor time of a case, after which it hangs; on a busy machine it may take several times as long."""

BLOCKED = 10
"""How many times as long a case may take by the clock: it may wait for something that never comes."""

CHECKOUT = Path(__file__).resolve().parents[2]


class Runner:
    """Judges cases; a context that ends its process."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory()
        self._errors = Path(self._folder.name) / "errors"

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        self._folder.cleanup()

    def judge(self, case: Case | GrownCase) -> Verdict:
        """The verdict on ``case``; where ONNX Runtime alone ends or blocks the process, only the rewrite runs."""
        stage, verdict = self._ask(case, try_source=True)
        if verdict is None and stage == "source":
            trouble = self._ended()
            stage, verdict = self._ask(case, try_source=False)
            if verdict is None:
                return Verdict(False, f"ONNX Runtime on its own {trouble.kind}", self._ended().detail)
        return verdict if verdict is not None else self._ended()

    def _ask(self, case: Case | GrownCase, *, try_source: bool) -> tuple[str, Verdict | None]:
        """The last stage told, and the verdict unless the process ended or blocked."""
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        grown = isinstance(case, GrownCase)
        kept = None if isinstance(case, GrownCase) else case.kept
        line = json.dumps([case.seed, case.number, grown, kept, try_source, self._seconds])
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
        stage = ""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while selector.select(BLOCKED * self._seconds):
                answer = process.stdout.readline()
                if not answer:
                    break
                told = json.loads(answer)
                if isinstance(told, dict):
                    return stage, Verdict(**told)
                stage = told
        return stage, None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            env = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
            with self._errors.open("wb") as errors:
                # Unbuffered: a buffer would take a stage and its verdict in one, and who selects would wait for ever.
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tests.fuzz.worker"],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=CHECKOUT, env=env, bufsize=0,
                )  # fmt: skip
        return self._process

    def _ended(self) -> Verdict:
        """The verdict on a case that ended the process or blocked it, which is stopped."""
        code = self._process.poll() if self._process is not None else None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(2) if self._process is not None else None
        self._stop()
        said = self._errors.read_text(encoding="utf-8", errors="replace")[-4000:]
        if code is None or code == -signal.SIGPROF:
            return Verdict(True, f"takes more than {self._seconds:.0f} s", said)
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Verdict(True, f"ends the process: {how}", said)

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = None


def smallest(runner: Runner, case: Case, verdict: Verdict) -> Case:
    """The case with as few of its mutations as still fail alike."""
    for count in range(3):
        for kept in _choices(count):
            smaller = Case(case.seed, case.number, kept)
            if runner.judge(smaller).kind == verdict.kind:
                return smaller
    return case


def _choices(count: int) -> tuple[tuple[int, ...], ...]:
    return {0: ((),), 1: ((0,), (1,), (2,)), 2: ((0, 1), (0, 2), (1, 2))}[count]
