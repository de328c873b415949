"""Files that appear whole or not at all: written in a temporary folder beside their place, flushed, then renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import signal
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType

from bct_onnx.errors import OutputError
from bct_onnx.graph import leftovers

PUBLISHED: list[Path] = []
"""What this process has published, for whoever has to say so when a signal ends it."""

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class WriteError(OSError):
    """Writing to a `Sink` failed; tells a failing output from a failing input while one is copied into the other."""


class Sink:
    """A new file that counts and hashes what is written to it, and reaches the disk before it is closed.

    Args:
        path: The file to make.
        report: Called with the bytes written so far, after every write.
        lasting: Whether the file is to be kept: only then its content is hashed, and reaches the disk.
    """

    def __init__(self, path: Path, report: Callable[[int], None] | None = None, *, lasting: bool = True) -> None:
        self._file, self._report, self._lasting = path.open("xb"), report, lasting
        self._hash = hashlib.sha256()
        self.size = 0

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if error is None and self._lasting:
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
        if self._lasting:
            self._hash.update(data)
        self.size += len(data)
        if self._report is not None:
            self._report(self.size)
        return len(data)


class TemporaryFolder:
    """A folder that is gone when the block ends, also when a signal ends it: none is taken while it is made or removed.

    A process that is killed leaves its folder. Each is therefore locked as long as its process lives, and before one is
    made, those beside it that nobody holds are removed (`leftovers.sweep`).

    Args:
        parent: Where to make it.
        purpose: What its name tells: ``.bct-PURPOSE.`` and random letters.
    """

    def __init__(self, parent: Path, purpose: str) -> None:
        self._parent, self._purpose = parent, purpose

    def __enter__(self) -> Path:
        with _signals_held():
            leftovers.sweep(self._parent)
            path, lock = leftovers.make(self._parent, self._purpose)
            self._end = weakref.finalize(self, _remove, path, lock)  # a signal may come before the block begins
        return path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _signals_held():
            self._end()


@contextlib.contextmanager
def scratch(purpose: str, parent: Path | None = None) -> Iterator[Path]:
    """A folder for files that nobody is to keep, models included; in `parent`, or where temporary files are made.

    It lies in a `TemporaryFolder`: that one is locked, and who publishes a model in a folder waits for its lock.
    """
    with TemporaryFolder(parent or Path(tempfile.gettempdir()), purpose) as folder:
        inner = folder / purpose
        inner.mkdir()
        yield inner


def write_text(file: Path, text: str, purpose: str) -> None:
    """Write a small file, whole or not at all, in place of what is there; an OSError where that cannot be."""
    with TemporaryFolder(file.absolute().parent, purpose) as folder:
        (folder / "file").write_text(text, encoding="utf-8")
        (folder / "file").replace(file)


def _remove(folder: Path, lock: leftovers.Lock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    leftovers.release(lock)


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
        with TemporaryFolder(output.parent, "save") as folder:
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


def publish(finished: Path, output: Path, *, force: bool = True) -> None:
    """Give a finished file its place.

    Raises:
        FileExistsError: Without `force`, when another process was faster.
    """
    if force or not _can_link(finished):
        finished.replace(output)
    else:
        os.link(finished, output)  # unlike a rename it fails where something is
    PUBLISHED.append(output)
    _flush(output.parent)


def publish_with_data(
    finished: Path, output: Path, *, data: Path | None, owned: Callable[[], Iterable[Path]], force: bool
) -> None:
    """Give a finished model its place, and its data file before; remove the data that only the replaced model had.

    What is being done is written down in the folder of `finished` first, so that `leftovers.sweep` can undo or end it
    when this process is killed. Other processes that publish in the same folder wait.

    Args:
        finished: The model, in its temporary folder.
        output: Its place.
        data: Place of its data file, which lies beside `finished` under the same name.
        owned: Gives the data files of the model that is at `output` now.
        force: Replace what is there.

    Raises:
        FileExistsError: Without `force`, when another process was faster.
    """
    with leftovers.turn(output.parent), _signals_held():
        old = [file for file in owned() if file != data]
        leftovers.note(finished, old)
        new = data is not None and _place_new(finished.with_name(data.name), data)
        try:
            publish(finished, output, force=force)
        except BaseException:
            if new and data is not None:
                data.unlink(missing_ok=True)
            raise
        for file in old:
            with contextlib.suppress(OSError):
                file.unlink()


def _place_new(finished: Path, place: Path) -> bool:
    """Give a data file its place, unless it is there: its name is a hash of its content. Whether it was not."""
    if place.exists():
        return False
    try:
        os.link(finished, place)
    except OSError:  # a file system without links
        finished.replace(place)
    return True


def _can_link(file: Path) -> bool:
    probe = file.with_name("link")
    try:
        os.link(file, probe)
    except OSError:
        return False
    probe.unlink()
    return True


def _flush(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every system and file system can flush a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
