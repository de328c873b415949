"""Measurements kept between runs, so that another target for the same model takes seconds.

An entry is a JSON file named by a hash of all that it depends on: the model, the pipeline, the data, and the source of
this package. It is written whole or not at all after every tensor, so a run that was stopped goes on where it was; one
that cannot be read counts as none.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from bct_onnx import digest, own_passes
from bct_onnx.graph import load
from bct_onnx.graph.atomic import TemporaryFolder
from bct_onnx.pipeline import Pipeline


def default_folder() -> Path:
    """Where this system keeps what programs can make again, in a folder of ours."""
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
        return base / "bct-onnx" / "Cache"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "bct-onnx"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "bct-onnx"


def key(source: Path, passes: Pipeline, *settings: object) -> str:
    """A hash of a model, a pipeline, the data that it reads, some settings, and of the code, with a user's own passes.

    Raises:
        InputModelError: There is no such model.
        UsageError: The data cannot be read.
    """
    read: list[Path] = []
    for one in passes:
        read += one.reads().values()
        read += own_passes.sources(one)
    files = (digest.of_files((file,)) for file in dict.fromkeys((*load.files(source), *read)))
    texts = (",".join(one.stamp_text() for one in passes), *map(repr, settings))
    return digest.of_text(*texts, *files, digest.of_code()).removeprefix("blake2b:")


class Entry:
    """One entry.

    Args:
        folder: Of the cache; None keeps nothing.
        name: The key.
    """

    def __init__(self, folder: Path | None, name: str) -> None:
        self._file = None if folder is None else folder / f"plan-{name}.json"
        self.content: dict[str, Any] = {} if self._file is None else _read(self._file)

    def write(self) -> None:
        """Keep the content. A cache that cannot be written is as good as none."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryFolder(self._file.parent, "cache") as folder:
                (folder / "entry").write_text(json.dumps(self.content), encoding="utf-8")
                (folder / "entry").replace(self._file)


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
