"""How values are spread: range, size, tails, and the rows and columns that stand out. Numpy only."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from bct_onnx.figures import finite_of
from bct_onnx.quant.strips import slices_of
from bct_onnx.runtime.statistics import ChannelStatistics

SHOWN = 3
"""Rows or columns that are named, those that stand out most."""

_STRIP = 1 << 20

Vector = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Spread:
    """Figures of many values.

    Attributes:
        minimum: Smallest value.
        maximum: Largest value.
        rms: Root mean square.
        kurtosis: Fourth central moment over the squared variance: 1.8 for even values, 3 for normal ones, more with
            heavy tails; NaN if all are the same; None where it was not measured.
        outliers: For each axis the `SHOWN` indices that stand out most, and how many times the median of that axis
            they are: by root mean square, or where only channels were measured by largest magnitude. Empty for a
            vector's own axis and where the median is 0.
    """

    minimum: float
    maximum: float
    rms: float
    kurtosis: float | None
    outliers: tuple[tuple[tuple[int, float], ...], ...]

    @property
    def largest(self) -> float:
        """Largest magnitude over `rms`; NaN if all values are 0."""
        if self.rms:
            return max(-self.minimum, self.maximum) / self.rms
        return math.nan

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        outliers: list[list[dict[str, Any]]] = []
        for axis in self.outliers:
            outliers.append([{"index": index, "times": times} for index, times in axis])
        return {**finite_of(self, "minimum", "maximum", "rms", "largest", "kurtosis"), "outliers": outliers}


def of_values(array: npt.NDArray[Any]) -> Spread:
    """The spread of a tensor of any shape and float type, read once in strips of its first axis.

    >>> spread = of_values(np.array([[1.0, -1.0], [1.0, -1.0], [4.0, -4.0]], np.float32))
    >>> spread.maximum, round(spread.rms, 3), spread.outliers[0][0]
    (4.0, 2.449, (2, 4.0))
    """
    table = array.reshape(len(array) if array.ndim > 1 else 1, -1)
    low, high, moments = math.inf, -math.inf, np.zeros(4)
    rows, columns = np.zeros(table.shape[0]), np.zeros(table.shape[1])
    for some in slices_of(*table.shape, _STRIP):
        strip = table[some].astype(np.float64)
        low, high = min(low, float(strip.min())), max(high, float(strip.max()))
        squares = strip * strip
        moments += strip.sum(), squares.sum(), (squares * strip).sum(), np.square(squares).sum()
        rows[some] = squares.mean(axis=1)
        columns += squares.sum(axis=0)
    sides = (rows, columns / len(table)) if array.ndim == 2 else ()
    outliers = tuple(stand_out(np.sqrt(side)) for side in sides)
    return Spread(low, high, math.sqrt(moments[1] / table.size), _kurtosis(moments / table.size), outliers)


def of_channels(statistics: ChannelStatistics) -> Spread:
    """The spread of a value that was measured per channel; its one axis is that of the channels."""
    rms = math.sqrt(float(statistics.mean_square.mean()))
    low, high = float(statistics.minimum.min()), float(statistics.maximum.max())
    return Spread(low, high, rms, None, (stand_out(statistics.max_abs),))


def stand_out(sizes: Vector) -> tuple[tuple[int, float], ...]:
    """The indices of the largest sizes, and how many times the median each is.

    >>> stand_out(np.array([1.0, 2.0, 1.0, 9.0]))
    ((3, 6.0), (1, 1.333), (0, 0.667))
    """
    median = float(np.median(sizes))
    if not median > 0:
        return ()
    return tuple((int(at), round(float(sizes[at]) / median, 3)) for at in np.argsort(-sizes, kind="stable")[:SHOWN])


def _kurtosis(raw: Vector) -> float:
    """From the raw moments 1 to 4."""
    mean, second, third, fourth = raw.tolist()
    variance = second - mean**2
    central = fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4
    if variance > 1e-12 * second:
        return float(central / variance**2)
    return math.nan
