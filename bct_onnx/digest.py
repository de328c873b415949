"""Short names of contents, so that results tell what they were made from and by."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bct_onnx.errors import UsageError, path_fix

_PACKAGE = Path(__file__).resolve().parent
_SOURCES = (_PACKAGE, _PACKAGE.parent / "passes")


def of_files(files: Iterable[Path], stop: Callable[[], bool] = lambda: False) -> str:
    """SHA-256 of files, one after the other, as hexadecimal digits behind ``sha256:``: of a single file what model hubs
    show, and with today's processors by far the quickest. Asked between blocks, ``stop`` ends it early.

    Raises:
        UsageError: A file cannot be read.
    """
    total = hashlib.sha256()
    for file in files:
        if stop():
            break
        try:
            with file.open("rb") as source:
                while not stop() and (block := source.read(1 << 22)):
                    total.update(block)
        except OSError as error:
            fix = path_fix(file.absolute())
            raise UsageError("a file cannot be read", where=str(file), why=error.strerror or "", fix=fix) from error
    return f"sha256:{total.hexdigest()}"


@contextlib.contextmanager
def beside(files: Iterable[Path]) -> Iterator[Callable[[], str]]:
    """`of_files` in a thread while the block runs, for which hashing releases the interpreter: what is yielded waits
    for the result. At the end of the block it is over, done or not."""
    over = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        digest = executor.submit(of_files, files, over.is_set)
        try:
            yield digest.result
        finally:
            over.set()


def of_text(*parts: str) -> str:
    """BLAKE2b of texts, with the bounds between them; 16 bytes as hexadecimal digits behind ``blake2b:``.

    >>> of_text("ab", "c") == of_text("a", "bc")
    False
    """
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        total.update(part.encode() + b"\0")
    return f"blake2b:{total.hexdigest()}"


def of_arrays(arrays: Iterable[npt.NDArray[Any]], *texts: str) -> str:
    """BLAKE2b of arrays with their types and shapes, and of texts, as `of_text` writes it.

    >>> of_arrays([np.zeros(2)]) == of_arrays([np.zeros((1, 2))])
    False
    """
    total = hashlib.blake2b("\0".join(texts).encode(), digest_size=16)
    for array in arrays:
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return f"blake2b:{total.hexdigest()}"


@functools.cache
def of_code() -> str:
    """Of this package and the passes: what is kept between runs is of no use to another state of them.

    Presets and targets are data beside the code, and count as it does.
    """
    files: list[Path] = []
    for folder in _SOURCES:
        files += sorted(file for file in folder.rglob("*") if file.suffix in (".py", ".toml"))
    return of_files(files)
