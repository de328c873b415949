"""Files that appear whole or not at all: written in a temporary folder beside their place, flushed, then renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from bct_onnx.errors import OutputError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class WriteError(OSError):
    """Writing to a `Sink` failed; tells a failing output from a failing input while one is copied into the other."""


class Sink:
    """A new file that counts and hashes what is written to it, and reaches the disk before it is closed.

    Args:
        path: The file to make.
        report: Called with the bytes written so far, after every write.
    """

    def __init__(self, path: Path, report: Callable[[int], None] | None = None) -> None:
        self._file, self._report = path.open("xb"), report
        self._hash = hashlib.sha256()
        self.size = 0

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if error is None:
                self._file.flush()
                os.fsync(self._file.fileno())

    @property
    def digest(self) -> str:
        """SHA-256 of what was written so far, in hexadecimal."""
        return self._hash.hexdigest()

    def write(self, data: bytes | memoryview, /) -> int:
        """Append `data`.

        Raises:
            WriteError: The operating system refused.
        """
        try:
            self._file.write(data)
        except OSError as error:
            raise WriteError(error.errno, error.strerror) from error
        self._hash.update(data)
        self.size += len(data)
        if self._report is not None:
            self._report(self.size)
        return len(data)


class TemporaryFolder:
    """A folder that is gone when the block ends, also when a signal ends it: none is taken while it is made or removed.

    Args:
        parent: Where to make it.
        prefix: How its name begins.
    """

    def __init__(self, parent: Path, prefix: str) -> None:
        self._parent, self._prefix = parent, prefix

    def __enter__(self) -> Path:
        with _signals_held():
            self._directory = tempfile.TemporaryDirectory(
                prefix=self._prefix, dir=self._parent, ignore_cleanup_errors=True
            )
        return Path(self._directory.name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _signals_held():
            self._directory.cleanup()


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Take SIGINT and SIGTERM at the end of the block instead of inside it, where the system can do that."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def temporary_folder(output: Path, needed: int) -> Iterator[Path]:
    """A folder on the disk of `output` for files of `needed` bytes in all; removed with what is left in it.

    Raises:
        OutputError: The folder cannot be made, has too little space, or an operating system error ended the block.
    """
    try:
        with TemporaryFolder(output.parent, f".{output.name}.") as folder:
            if shutil.disk_usage(folder).free < needed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield folder
    except OSError as error:
        full = error.errno in _DISK_FULL
        raise OutputError(
            "the disk is full" if full else "the model could not be written",
            where=str(output),
            why=f"{error.strerror or error}; {needed:,} bytes are needed; nothing was left behind",
            fix="free some space, or write to another disk" if full else "choose another folder",
        ) from error


def publish(files: list[tuple[Path, Path]]) -> None:
    """Rename each (finished file, place) in turn. If one fails, those before it that were new are removed again.

    The last file is the one that makes the others visible; the others have names that no existing file refers to.
    """
    last = files[-1][0]
    new = [place for _, place in files[:-1] if not place.exists()]
    try:
        for finished, place in files:
            finished.replace(place)
    except BaseException:
        if last.exists():
            for place in new:
                place.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # not every system and file system can flush a folder
        folder = os.open(files[-1][1].parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
