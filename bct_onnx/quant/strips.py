"""A matrix cut into strips of columns, each laid out as [blocks along K, values of a block, columns of blocks].

This is what keeps memory flat, and what lets the search know nothing of partial and two-dimensional blocks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]

READ_VALUES = 1 << 22
"""Values between two calls of `after_read`: 16 MiB of float32."""

_AT_ONCE = 64  # rows or columns transposed at once


def slices(count: int, size: int, first: int = 0) -> Iterator[slice]:
    """All of ``count`` rows or columns from the ``first`` on, ``size`` at a time; the last may be fewer.

    >>> list(slices(5, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    for start in range(first, count, size):
        yield slice(start, min(start + size, count))


def slices_of(count: int, length: int, values: int) -> Iterator[slice]:
    """All of ``count`` rows of a length, as many at a time as have about so many values together, and at least one."""
    return slices(count, max(1, values // max(1, length)))


def oriented(matrix: npt.NDArray[Any], transposed: bool) -> npt.NDArray[Any]:
    """A view of a matrix as it lies, or of its transpose."""
    if transposed:
        return matrix.T
    return matrix


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

    def strips(
        self, matrix: npt.NDArray[Any], strip_values: int, after_read: Callable[[], None] | None = None
    ) -> Iterator[tuple[slice, Float]]:
        """Column ranges, and their values as float32 [R, size * width, C], about `strip_values` of them.

        ``after_read`` is called after every `READ_VALUES` values that were read, and those beside them, for example to
        drop the pages of a mapped file.
        """
        step = self.width * max(1, strip_values // (self.grid[0] * self.size * self.width))
        for columns in slices(self.n, step):
            part = _in_rows(matrix[:, columns], after_read)
            is_view = self._is_plain and part.dtype == np.float32
            yield columns, part.reshape(self.grid[0], self.size, -1) if is_view else self._gather(part)

    @contextlib.contextmanager
    def codes(self, matrix: npt.NDArray[Any], columns: slice) -> Iterator[npt.NDArray[Any]]:
        """An array [R, size * width, C] to write codes to that are meant for some columns of a matrix [k, n]."""
        part = matrix[:, columns]
        if self._is_plain and part.strides[1] == part.itemsize:
            yield part.reshape(self.grid[0], self.size, -1)
            return
        strip = np.empty((self.grid[0], self.size * self.width, ceil(part.shape[1] / self.width)), matrix.dtype)
        yield strip
        blocks = strip.reshape(self.grid[0], self.size, self.width, -1).transpose(0, 1, 3, 2)
        flat = blocks.reshape(self.grid[0] * self.size, -1)[: self.k, : part.shape[1]]
        for rows in slices(self.k, _AT_ONCE):  # the part may lie by columns
            part[rows] = flat[rows]

    def block_columns(self, columns: slice) -> slice:
        """Columns of blocks that a range of columns, as given by `strips`, consists of."""
        return slice(columns.start // self.width, ceil(columns.stop / self.width))

    def rows(self, values: Float) -> Float:
        """One value per row [k] as it applies to a strip, [R, size * width, 1]."""
        full = np.zeros(self.grid[0] * self.size, np.float32)
        full[: self.k] = values
        return np.repeat(full.reshape(self.grid[0], self.size), self.width, axis=1)[:, :, None]

    @property
    def _is_plain(self) -> bool:
        """Whether a strip of the matrix is a strip of blocks as it lies: splitting an axis never copies."""
        return self.width == 1 and self.k % self.size == 0

    def _gather(self, columns: npt.NDArray[Any]) -> Float:
        rows, count = self.grid[0], ceil(columns.shape[1] / self.width)
        full = np.zeros((rows * self.size, count * self.width), np.float32)
        with np.errstate(over="ignore"):
            full[: self.k, : columns.shape[1]] = columns
        blocks = full.reshape(rows, self.size, count, self.width).transpose(0, 1, 3, 2)
        return np.ascontiguousarray(blocks).reshape(rows, self.size * self.width, count)


def _in_rows(part: npt.NDArray[Any], after_read: Callable[[], None] | None) -> npt.NDArray[Any]:
    """A copy of some columns of a matrix, with its rows in one piece.

    Of a matrix that lies by columns a few at a time are copied first to where their starts do not share cache lines.
    """
    rows = np.empty(part.shape, part.dtype)
    by_column = part.strides[0] < part.strides[1]
    source, target = (part.T, rows.T) if by_column else (part, rows)
    length = max(1, abs(source.strides[0]) // part.itemsize)
    at_once = _AT_ONCE if by_column else max(1, READ_VALUES // length)
    room = np.empty((_AT_ONCE if by_column else 0, source.shape[1] + 16), part.dtype)[:, :-16]
    unread = READ_VALUES
    for start in range(0, len(source), at_once):
        some = source[start : start + at_once]
        if by_column:
            room[: len(some)] = some
            some = room[: len(some)]
        target[start : start + at_once] = some
        unread -= len(some) * length
        if after_read is not None and unread <= 0:
            after_read()
            unread = READ_VALUES
    return rows
