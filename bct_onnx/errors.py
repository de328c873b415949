"""Every error a user can cause: one root class, and one subclass per exit code.

A message answers four questions, each on its own line: what went wrong, where, why, and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar


class BctError(Exception):
    """Root of all errors this package raises on purpose.

    Args:
        what: What went wrong, in one sentence without a final full stop.
        where: The file, node, tensor or option concerned.
        why: The cause, as far as it is known.
        fix: What the user can do about it.

    >>> print(UsageError("unknown preset 'fats'", fix="did you mean 'fast'?"))
    unknown preset 'fats'
      what to do: did you mean 'fast'?
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.why, self.fix = what, where, why, fix

    def __str__(self) -> str:
        parts = (("where", self.where), ("why", self.why), ("what to do", self.fix))
        return "\n".join([self.what, *(f"  {label}: {text}" for label, text in parts if text)])


class GateError(BctError):
    """A measured figure missed a gate the user or a pass has set (exit code 1)."""

    exit_code = 1


class UsageError(BctError):
    """The command line, a pipeline text, a recipe or an argument is wrong (exit code 2)."""

    exit_code = 2


class InputModelError(BctError):
    """The input model is missing, damaged or not something this tool can work on (exit code 3)."""

    exit_code = 3


class TargetError(BctError):
    """The target runtime cannot load or run the result (exit code 4)."""

    exit_code = 4


class OutputError(BctError):
    """The result could not be written, for example because the disk is full (exit code 5)."""

    exit_code = 5


def nearest(name: str, known: Iterable[str], kind: str = "known") -> str:
    """What to do about a name that nothing has: take the one that is most like it, or any of those there are.

    >>> nearest("fats", ["fast", "bct"]), nearest("xyz", ["fast", "bct"], "presets")
    ("did you mean 'fast'?", 'presets: fast, bct')
    """
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"{kind}: {', '.join(names)}"


def path_fix(path: Path) -> str:
    """What to do about a path that leads nowhere: the file beside it whose name is nearest, or the folder that is not.

    >>> path_fix(Path("no", "such", "folder", "model.onnx"))
    "check the path: there is no folder 'no'"
    """
    existing = next(filter(Path.is_dir, path.parents), path.parent)
    if existing != path.parent:
        first = path.parts[: len(existing.parts) + 1]
        return f"check the path: there is no folder '{Path(*first)}'"
    try:
        names = [file.name for file in path.parent.iterdir() if file.suffix == path.suffix or not path.suffix]
    except OSError:
        names = []
    close = difflib.get_close_matches(path.name, names, n=1)
    if close:
        return f"check the path: did you mean '{close[0]}'?"
    return "check the path"


class Stopped(BaseException):
    """A signal asked this process to stop. Not an `Exception`: nothing but clean-up code may catch it.

    Attributes:
        signum: The number of the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class Interrupted(Stopped):
    """It was Ctrl-C: work that the user has allowed to end early may take it as that, and go on with what it has."""
