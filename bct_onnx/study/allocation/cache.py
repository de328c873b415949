"""Measurements kept between runs, so that another size of the same model takes seconds.

An entry is a JSON file named by a hash of all that it depends on: the model, the pipeline, the data, and the source of
this package. It is written whole or not at all after every tensor, so a run that was stopped goes on where it was; one
that cannot be read counts as none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bct_onnx import digest, own_passes
from bct_onnx.course import Course
from bct_onnx.graph import load
from bct_onnx.graph.atomic import write_text
from bct_onnx.study.allocation.options import NoiseTable, TensorOptions


def default_folder() -> Path:
    """Where this system keeps what programs can make again, in a folder of ours."""
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
        return base / "bct-onnx" / "Cache"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "bct-onnx"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "bct-onnx"


def key(course: Course, *settings: object) -> str:
    """A hash of a model's file, the passes, the data that they read, some settings, and of the code, a user's own too.

    Raises:
        InputModelError: There is no such model.
        UsageError: The data cannot be read.
    """
    assert course.source is not None
    files = list(load.files(course.source))
    texts = list(map(repr, settings))
    for number, one in enumerate(course.passes):
        if number != course.at:  # of the allocation itself the settings matter, not the size
            texts.append(one.stamp_text())
            files += one.reads().values()
            files += own_passes.sources(one)
    hashes = [digest.of_files((file,)) for file in dict.fromkeys(files)]
    return digest.of_text(*texts, *hashes, digest.of_code()).removeprefix("blake2b:")


class Entry:
    """One entry.

    Args:
        file: Where it lies; None keeps nothing.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._content: dict[str, Any] = {}
        if file is None:
            return
        with contextlib.suppress(OSError, ValueError):
            content = json.loads(file.read_text(encoding="utf-8"))
            self._content = content if isinstance(content, dict) else {}

    @classmethod
    def of(cls, course: Course, *settings: object) -> Entry:
        """The entry of a run: none where it keeps nothing, or its model has no file."""
        if course.cache is None or course.source is None:
            return cls(None)
        return cls(course.cache / f"noise-{key(course, *settings)}.json")

    def known(self) -> dict[str, TensorOptions]:
        """The tensors that can be read, by name."""
        known: dict[str, TensorOptions] = {}
        tensors = self._content.get("tensors", ())
        for content in tensors if isinstance(tensors, list) else ():
            with contextlib.suppress(KeyError, TypeError, ValueError):
                tensor = TensorOptions.of(content)
                known[tensor.name] = tensor
        return known

    def table(self) -> NoiseTable | None:
        """The whole table; None where it is not known, or not all of it can be read."""
        with contextlib.suppress(KeyError, TypeError, ValueError):
            return NoiseTable.of(self._content)
        return None

    def write(self, tensors: Sequence[TensorOptions], table: NoiseTable | None = None) -> None:
        """Keep tensors, or the whole table. A cache that cannot be written is as good as none."""
        if self._file is None:
            return
        content = {"tensors": list(map(dataclasses.asdict, tensors))} if table is None else dataclasses.asdict(table)
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._file, json.dumps(content), "cache")
