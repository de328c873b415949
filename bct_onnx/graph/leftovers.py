"""What a killed process leaves behind, and how the next one clears it away without touching what another still uses.

Everything unfinished lies in folders called ``.bct-PURPOSE.xxxxxxxx`` beside the output. The process that made one
holds a lock on it; the system lets go of the lock when the process ends, however it ends. Where folders cannot be
locked (Windows, some network file systems) nothing is swept.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_NAME = re.compile(r"\.bct-[a-z]+\.[a-z0-9_]{8}")
_JOURNAL, _REPLACED = ".journal", ".replaced"

Lock = int | None
"""A file descriptor; None where nothing can be locked."""


def make(parent: Path, purpose: str) -> tuple[Path, Lock]:
    """Make and lock a folder.

    Raises:
        OSError: It cannot be made.
    """
    while True:
        path = Path(tempfile.mkdtemp(prefix=f".bct-{purpose}.", dir=parent))
        lock = _lock(path)
        if lock is None or _is(lock, path):
            return path, lock
        release(lock)  # swept before it was locked


def release(lock: Lock) -> None:
    """Let go of a lock."""
    if lock is not None:
        os.close(lock)


def sweep(parent: Path) -> None:
    """Remove our user's folders in `parent` whose process is gone, and end or undo what it was publishing."""
    try:
        leftovers = [path for path in parent.iterdir() if _NAME.fullmatch(path.name)]
    except OSError:
        return
    for path in leftovers:
        lock = None if path.is_symlink() else _lock(path, wait=False)
        if lock is not None:
            if _is(lock, path):
                with contextlib.suppress(OSError):
                    _settle(path)
                shutil.rmtree(path, ignore_errors=True)
            release(lock)


@contextlib.contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a block for `folder`."""
    lock = _lock(folder)
    try:
        yield
    finally:
        release(lock)


def note(finished: Path, replaced: Iterable[Path]) -> None:
    """Write down, in the folder of `finished`, that it is about to get its place, and which files go when it has."""
    folder = finished.parent / _REPLACED
    folder.mkdir()
    for file in replaced:
        with contextlib.suppress(OSError):  # without links they stay if this process is killed
            os.link(file, folder / file.name)
    (finished.parent / _JOURNAL).write_text(finished.name, encoding="utf-8")


def _settle(folder: Path) -> None:
    """Remove what a killed process has put beside `folder` or not yet removed there: new data, or the replaced ones."""
    try:
        name = (folder / _JOURNAL).read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    model, beside = folder / name, folder.parent
    with turn(beside):
        placed = not model.exists() or _same(model, beside / name)
        for file in (folder / _REPLACED if placed else folder).iterdir():
            if file.is_file() and file != model and _same(file, beside / file.name):
                (beside / file.name).unlink()


def _lock(folder: Path, *, wait: bool = True) -> Lock:
    if sys.platform == "win32":
        return None
    lock = None
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        release(lock)
        return None
    return lock


def _is(lock: int, path: Path) -> bool:
    """Whether `path` is what was locked, and ours: where all have their temporary folders, anyone can make some."""
    try:
        held = os.fstat(lock)
        return held.st_uid == os.geteuid() and os.path.samestat(held, path.stat())
    except OSError:
        return False


def _same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False
