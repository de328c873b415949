"""Run the command line many times, each in a process of its own that has imported the program already.

A process that has done nothing but import forks one for every command, so that a table of a thousand cells does not
import a thousand times. Commands share nothing else.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple


class Limits(NamedTuple):
    """What one command may take: seconds of processor time and bytes of address space."""

    seconds: int = 600
    memory: int = 8 << 30


class Ended(NamedTuple):
    """How a command ended.

    Attributes:
        exit: Its exit code; -9 and the like where a limit ended it.
        errors: What it wrote to stderr.
        seconds: Of processor time.
        memory: The most it held, MB.
    """

    exit: int
    errors: str
    seconds: float
    memory: float


class Runner:
    """Runs commands of ``bct-onnx`` one after the other; a context manager."""

    def __enter__(self) -> Runner:
        command = [sys.executable, "-m", "models.real_files.running"]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.communicate()

    def run(self, arguments: Sequence[str], limits: Limits) -> Ended:
        """Run ``bct-onnx`` with these arguments.

        Raises:
            RuntimeError: The process that forks has ended.
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps([list(arguments), *limits]) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        if not answer:
            raise RuntimeError("the process that runs commands has ended")
        return Ended(*json.loads(answer))


def _serve() -> None:
    """Answer each line of stdin, a command and its limits, with a line that says how it ended."""
    for name in ("bct_onnx.cli.tables", "bct_onnx.recipe", "bct_onnx.rewriting"):  # what `rewrite` imports as it runs
        importlib.import_module(name)

    for line in sys.stdin:
        arguments, *limits = json.loads(line)
        with tempfile.TemporaryFile() as errors:
            child = os.fork()
            if not child:
                _become(arguments, Limits(*limits), errors.fileno())
            _, status, used = os.wait4(child, 0)
            errors.seek(0)
            text = errors.read().decode(errors="replace")
        ended = Ended(os.waitstatus_to_exitcode(status), text, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3)
        print(json.dumps(ended), flush=True)


def _become(arguments: list[str], limits: Limits, errors: int) -> Any:
    """Run the command in this process, which ends with it."""
    from bct_onnx.cli import main

    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.dup2(errors, 2)
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory, limits.memory))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.seconds, limits.seconds))
    code = 70
    try:
        code = main(arguments)
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    _serve()
