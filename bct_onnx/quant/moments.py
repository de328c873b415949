"""Second moments XᵀX of the rows x that go into a weight: summed up in a stream, and kept in a file while they wait.

Of a symmetric matrix one half is computed and kept: strips of rows from the diagonal on. Multiplying by strips takes
half the time of ``X.T @ X`` for a few hundred rows, where BLAS computes one half and numpy copies it to the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from bct_onnx.quant.stored import Stored

Matrix = npt.NDArray[np.float32]

_STRIP = 512  # rows of a strip: of 3,072 a twelfth is computed twice, and products of matrices are large enough


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """The sum of x xᵀ over rows x of K channels.

    Attributes:
        width: K.
        upper: Strip after strip of the matrix, each from the diagonal on, float32; or where they lie.
        factors: What each channel was divided by since then, [K], or None.
    """

    width: int
    upper: Matrix | Stored
    factors: npt.NDArray[np.float64] | None = None

    @classmethod
    def of(cls, rows: Matrix) -> Moments:
        """Those of an array [N, K]."""
        upper = np.empty(_size(rows.shape[1]), np.float32)
        for start, strip in _strips(upper, rows.shape[1]):
            np.matmul(rows[:, start : start + len(strip)].T, rows[:, start:], out=strip)
        return cls(rows.shape[1], upper)

    @classmethod
    def from_matrix(cls, matrix: Matrix) -> Moments:
        """Those that are known as a symmetric matrix, [K, K]."""
        upper = np.empty(_size(len(matrix)), np.float32)
        for start, strip in _strips(upper, len(matrix)):
            strip[:] = matrix[start : start + len(strip), start:]
        return cls(len(matrix), upper)

    def add(self, rows: Matrix) -> None:
        """Count the rows of an array [N, K] too, in place."""
        assert isinstance(self.upper, np.ndarray)
        for start, strip in _strips(self.upper, self.width):
            np.add(strip, rows[:, start : start + len(strip)].T @ rows[:, start:], out=strip)

    def __add__(self, other: Moments) -> Moments:
        """Both; in place of the first where it lies in memory, because there may be many as large."""
        assert isinstance(self.upper, np.ndarray) and self.factors is None is other.factors
        return dataclasses.replace(self, upper=np.add(self.upper, _read(other.upper), out=self.upper))

    def divided(self, factors: npt.NDArray[np.float64]) -> Moments:
        """Those of the same rows, channel k divided by ``factors[k]``."""
        return dataclasses.replace(self, factors=factors if self.factors is None else self.factors * factors)

    def matrix(self) -> Matrix:
        """All of it, [K, K], a new array."""
        full = np.empty((self.width, self.width), np.float32)
        for start, strip in _strips(_read(self.upper), self.width):
            stop = start + len(strip)
            full[start:stop, start:] = strip
            if self.factors is not None:
                full[start:stop, start:] = strip / np.outer(self.factors[start:stop], self.factors[start:])
            full[stop:, start:stop] = full[start:stop, stop:].T
        return full


def _size(width: int) -> int:
    """Values in all strips of a matrix."""
    return sum(min(_STRIP, width - start) * (width - start) for start in range(0, width, _STRIP))


def _strips(upper: Matrix, width: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """The first row of each strip, and the strip: its rows, columns from its first row on."""
    at = 0
    for start in range(0, width, _STRIP):
        shape = min(_STRIP, width - start), width - start
        yield start, upper[at : at + shape[0] * shape[1]].reshape(shape)
        at += shape[0] * shape[1]


def _read(upper: Matrix | Stored) -> Matrix:
    if not isinstance(upper, Stored):
        return upper
    return np.fromfile(upper.file, upper.dtype, int(np.prod(upper.shape)), offset=upper.offset)
