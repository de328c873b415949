"""Arrays that lie in files: what is sent to a worker in their place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Stored:
    """An array that lies in a file.

    Args:
        file: An absolute path that workers see as well.
        offset: Its first byte there.
        dtype: Type of its values, in this machine's order of bytes.
        shape: Its shape.
    """

    file: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
