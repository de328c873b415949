"""What is known of the values that go through a model: a few numbers per channel."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.quant.moments import Moments
from bct_onnx.runtime.histogram import Histogram

KEY = "bct_onnx.statistics"
"""Key in `onnx_ir.Value.meta` under which passes leave and find a value's `ChannelStatistics`."""

SCORES = "bct_onnx.attention_scores"
"""Key in `onnx_ir.Value.meta` of what an ``Attention`` gives: the `Scores` it takes its softmax of."""

SENSITIVITY = "bct_onnx.sensitivity"
"""Key in `onnx_ir.Value.meta` of a table [V, D] of what errors in its rows do to the outputs: the mean of JᵀJ, float32
[D, D], for J the change of the outputs by that of a row."""

MASKED = -1e4
"""A row of scores whose maximum is below this has every key masked."""

Vector = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class ChannelStatistics:
    """Figures per channel (last axis, length K) over all rows of all samples.

    A value that was observed as a whole counts as one channel (K = 1) with a row per element.

    Attributes:
        minimum: Smallest value, [K].
        maximum: Largest value, [K].
        sum_squares: Sum of squares, [K].
        rows: Number of rows (tokens); 0 makes minimum and maximum +inf and -inf.
        moments: Sum of x xᵀ over rows (XᵀX), or None where it was not asked for.
        random: Whether the model read random tokens, which show ranges well but correlations less.
        histogram: Of the values of all channels together, or None where it is not known.
    """

    minimum: Vector
    maximum: Vector
    sum_squares: Vector
    rows: int
    moments: Moments | None = None
    random: bool = False
    histogram: Histogram | None = None

    @property
    def products(self) -> npt.NDArray[np.float32] | None:
        """XᵀX, a new array [K, K]; None where it was not asked for."""
        if self.moments is None:
            return None
        return self.moments.matrix()

    @property
    def max_abs(self) -> Vector:
        """Largest magnitude, [K]; 0 without rows."""
        if self.rows:
            return np.maximum(-self.minimum, self.maximum)
        return np.zeros_like(self.maximum)

    @property
    def mean_square(self) -> Vector:
        """Mean of the squares, [K]: the diagonal of X^T X / rows."""
        return self.sum_squares / max(self.rows, 1)

    def output_power(self, matrix: npt.NDArray[Any]) -> Vector:
        """``|X m|²`` of each column m [K] of a matrix [K, N]: the diagonal of Mᵀ XᵀX M, [N] float64.

        Where only squares were measured, inputs count as if they were independent.
        """
        products = self.products
        behind = self.sum_squares[:, None] * matrix if products is None else products @ matrix
        power: Vector = np.einsum("kn,kn->n", matrix, behind, dtype=np.float64)
        return power

    def __add__(self, other: ChannelStatistics) -> ChannelStatistics:
        moments = self.moments
        if moments is not None and other.moments is not None:
            moments = moments + other.moments
        return ChannelStatistics(
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
            self.sum_squares + other.sum_squares,
            self.rows + other.rows,
            moments,
            self.random or other.random,
            self.histogram + other.histogram if self.histogram is not None and other.histogram is not None else None,
        )

    def divided(self, factors: npt.NDArray[Any]) -> ChannelStatistics:
        """The statistics of the same value divided by ``factors`` [K], which are positive; the histogram is lost."""
        wide = factors.astype(np.float64)
        moments = None if self.moments is None else self.moments.divided(wide)
        low, high, squares = self.minimum / wide, self.maximum / wide, self.sum_squares / wide**2
        return ChannelStatistics(low, high, squares, self.rows, moments, self.random)

    @classmethod
    def of(cls, values: npt.NDArray[Any], *, products: bool = False) -> ChannelStatistics:
        """Statistics of one array, [..., K].

        >>> ChannelStatistics.of(np.array([[1.0, -2.0], [3.0, 0.0]])).mean_square
        array([5., 2.])
        """
        rows = values.reshape(math.prod(values.shape[:-1]), values.shape[-1])
        rows = rows.astype(np.float32) if rows.dtype.itemsize < 4 else rows
        narrow = rows.astype(np.float32, copy=False)
        return cls(
            rows.min(axis=0, initial=np.inf).astype(np.float64),
            rows.max(axis=0, initial=-np.inf).astype(np.float64),
            np.einsum("nk,nk->k", rows, rows, dtype=np.float64),
            len(rows),
            Moments.of(narrow) if products else None,
            histogram=Histogram.of(narrow),
        )


def measured(value: ir.Value | None) -> ChannelStatistics | None:
    """What calibrate has left beside a value."""
    statistics = None if value is None else value.meta.get(KEY)
    if isinstance(statistics, ChannelStatistics):
        return statistics
    return None


@dataclasses.dataclass(frozen=True)
class Scores:
    """What the rows of attention scores reach, masked keys left out: the greatest of their maxima, and the least but
    for 1 in 200. (Rows with few keys reach least, and need the least resolution.) ``random``: of random data."""

    least: float = np.inf
    greatest: float = -np.inf
    random: bool = False

    def __add__(self, other: Scores) -> Scores:
        least, greatest = min(self.least, other.least), max(self.greatest, other.greatest)
        return Scores(least, greatest, self.random or other.random)

    @property
    def known(self) -> bool:
        """Whether any row was seen."""
        return bool(np.isfinite(self.least) and np.isfinite(self.greatest))
