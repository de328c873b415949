"""Keep what exporters print (warnings, progress bars, C++ logs) off the terminal until somebody wants it."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bct_onnx.errors import BctError, InputModelError


@dataclass(frozen=True)
class Noise:
    """``text()`` is what was printed so far."""

    text: Callable[[], str]


@contextlib.contextmanager
def captured(verbose: bool) -> Iterator[Noise]:
    """Send standard output and standard error to a file, or leave them alone when ``verbose``.

    Works below Python, on the file descriptors: half of the noise comes from C++ and from loggers that hold their own
    stream.
    """
    if verbose:
        yield Noise(lambda: "")
        return
    with tempfile.TemporaryFile("w+", errors="replace") as file, contextlib.ExitStack() as undo:
        for number in (1, 2):
            undo.enter_context(_pointing(number, file.fileno()))
        undo.enter_context(contextlib.redirect_stdout(file))
        undo.enter_context(contextlib.redirect_stderr(file))

        def text() -> str:
            file.flush()
            file.seek(0)
            return file.read()

        yield Noise(text)


@contextlib.contextmanager
def _pointing(number: int, target: int) -> Iterator[None]:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    before = os.dup(number)
    os.dup2(target, number)
    try:
        yield
    finally:
        os.dup2(before, number)
        os.close(before)


@contextlib.contextmanager
def explained(problem: str, model: str | Path, noise: Noise, *, fix: str) -> Iterator[None]:
    """Whatever a foreign library raises becomes an `InputModelError` with the end of what it printed."""
    try:
        yield
    except BctError:
        raise
    except Exception as error:  # torch, transformers and optimum raise everything; the cause stays attached
        printed = noise.text().splitlines()[-20:]
        message = "\n    ".join([f"{type(error).__name__}: {error}", *(["it printed:"] if printed else []), *printed])
        raise InputModelError(problem, where=str(model), why=message, fix=fix) from error
