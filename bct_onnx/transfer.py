"""How many bytes a download of a file takes."""

from __future__ import annotations

import gzip
from pathlib import Path


def gzipped(file: Path) -> int:
    """Bytes of a file after gzip: what a download of it takes."""
    counter = _Counter()
    with gzip.GzipFile(fileobj=counter, mode="wb", compresslevel=6, mtime=0) as sink, file.open("rb") as source:
        while block := source.read(1 << 20):
            sink.write(block)
    return counter.count


class _Counter:
    """A file that only counts what is written to it."""

    def __init__(self) -> None:
        self.count = 0

    def write(self, data: bytes) -> int:
        self.count += len(data)
        return len(data)

    def flush(self) -> None:
        pass
