"""A matrix cut into strips of columns, each laid out as [blocks along K, values of a block, columns of blocks].

This is what keeps memory flat, and what lets the search know nothing of partial and two-dimensional blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]

_STRIPS_PER_READ = 16  # strips are narrow; reading several at once touches each page of a mapped file fewer times


@dataclass(frozen=True)
class Layout:
    """Blocks of `size` x `width` over a matrix [k, n]; incomplete ones are filled up with zeros.

    >>> layout = Layout(k=3, n=2, size=2, width=1)
    >>> [(columns, strip.shape) for columns, strip in layout.strips(np.ones((3, 2)), 100)]
    [(slice(0, 2, None), (2, 2, 2))]
    """

    k: int
    n: int
    size: int
    width: int

    @property
    def grid(self) -> tuple[int, int]:
        """Blocks along K and N."""
        return ceil(self.k / self.size), ceil(self.n / self.width)

    def strips(self, matrix: npt.NDArray[Any], strip_values: int) -> Iterator[tuple[slice, Float]]:
        """Column ranges, and their values as new arrays float32 [R, size * width, C] of about `strip_values` values."""
        step = self.width * max(1, strip_values // (self.grid[0] * self.size * self.width))
        for first in range(0, self.n, step * _STRIPS_PER_READ):
            read = np.ascontiguousarray(matrix[:, first : first + step * _STRIPS_PER_READ])
            for start in range(0, read.shape[1], step):
                columns = read[:, start : start + step]
                yield slice(first + start, first + start + columns.shape[1]), self._gather(columns)

    def block_columns(self, columns: slice) -> slice:
        """Columns of blocks that a range of columns, as given by `strips`, consists of."""
        return slice(columns.start // self.width, ceil(columns.stop / self.width))

    def scatter(self, strip: Float, columns: slice) -> Float:
        """The columns [k, n of the strip] again."""
        blocks = strip.reshape(self.grid[0], self.size, self.width, -1).transpose(0, 1, 3, 2)
        return blocks.reshape(self.grid[0] * self.size, -1)[: self.k, : columns.stop - columns.start]

    def rows(self, values: Float) -> Float:
        """One value per row [k] as it applies to a strip, [R, size * width, 1]."""
        full = np.zeros(self.grid[0] * self.size, np.float32)
        full[: self.k] = values
        return np.repeat(full.reshape(self.grid[0], self.size), self.width, axis=1)[:, :, None]

    def _gather(self, columns: npt.NDArray[Any]) -> Float:
        rows, count = self.grid[0], ceil(columns.shape[1] / self.width)
        full = np.zeros((rows * self.size, count * self.width), np.float32)
        with np.errstate(over="ignore"):
            full[: self.k, : columns.shape[1]] = columns
        blocks = full.reshape(rows, self.size, count, self.width).transpose(0, 1, 3, 2)
        return np.ascontiguousarray(blocks).reshape(rows, self.size * self.width, count)
