"""What a run has got so far, in a file beside the output while it runs, so that another can go on where it ended."""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bct_onnx.graph.atomic import TemporaryFolder

Content = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Unfinished:
    """The file of a run.

    Attributes:
        file: Where it lies; None keeps nothing.
        key: Hash of all that the run depends on: what was left by another is of no use.
    """

    file: Path | None
    key: str

    def read(self) -> Content | None:
        """What was left; None where there is nothing, or it is of another run or cannot be read."""
        if self.file is None:
            return None
        with contextlib.suppress(OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            content = torch.load(self.file, weights_only=True)
            if isinstance(content, dict) and content.get("key") == self.key:
                return content
        return None

    def write(self, content: Mapping[str, Any]) -> None:
        """Leave numbers, texts and tensors, whole or not at all; a file that cannot be written is as good as none."""
        if self.file is None:
            return
        with contextlib.suppress(OSError, RuntimeError), TemporaryFolder(self.file.parent, "training") as folder:
            torch.save({"key": self.key, **content}, folder / "run")
            (folder / "run").replace(self.file)

    def remove(self) -> None:
        """The run is over."""
        if self.file is not None:
            with contextlib.suppress(OSError):
                self.file.unlink(missing_ok=True)
