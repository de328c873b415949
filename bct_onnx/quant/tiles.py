"""The values of some columns of blocks, in pieces that stay in the cache of a core: all that touches every value.

A strip is ``values[R, L, C]``: R blocks of L values in each of C columns (or columns of two-dimensional blocks). All
that is decided here is decided per column, in element-wise operations, so the width of a strip never changes a result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bct_onnx.quant.strips import Float

TILE_VALUES = 1 << 17
"""Values of a tile: few enough for a cache, many enough that rows of values are long; half or twice as many take
longer."""

_LEAST_COLUMNS = 64  # of a tile: numpy's cost of a row of values

At = tuple[slice, slice]
"""Ranges of blocks and of columns: the place of a tile in an array [R, C]."""


class Tiles:
    """A strip to quantize, and what its codes may be.

    Each column is worked on over a power of two, its ``unit``, so that its values are about 1.

    Args:
        values: float32 [R, L, C] with C at least 2: sums over a single column would be rounded in another order.
        exponent: Of each column's unit, [C].
        extremes: Least and largest value of each block over its unit, float32 [R, C] each.
        limits: Least and largest `code - zero_point`: a float each, or float32 [R, C] each.
        importance: Of each value, float32 [R, L, 1], or None.
    """

    def __init__(
        self,
        values: Float,
        exponent: npt.NDArray[np.int32],
        extremes: tuple[Float, Float],
        limits: Sequence[float | Float],
        importance: Float | None = None,
    ) -> None:
        self.values, self.importance = values, importance
        (self.least, self.most), (self.low, self.high) = extremes, limits
        self._inverse = np.ldexp(np.float32(1), -exponent)
        blocks, length, columns = values.shape
        self._columns = min(columns, max(_LEAST_COLUMNS, TILE_VALUES // length))
        self._blocks = min(blocks, max(1, TILE_VALUES // (length * self._columns)))
        self._scaled, self._codes, self._other = np.empty((3, self._blocks * length * (self._columns + 1)), np.float32)

    def __iter__(self) -> Iterator[tuple[At, Float]]:
        """Places of tiles, and their values over the unit [r, L, c]; the next one reuses the array."""
        blocks, _, columns = self.values.shape
        for left in range(0, columns, self._columns):
            right = columns if columns - left <= self._columns + 1 else left + self._columns  # none of one column
            for top in range(0, blocks, self._blocks):
                at = slice(top, min(top + self._blocks, blocks)), slice(left, right)
                part = self.values[at[0], :, at[1]]
                scaled = self._scaled[: part.size].reshape(part.shape)
                yield at, np.multiply(part, self._inverse[at[1]], out=scaled)
            if right == columns:
                return

    def no_clip(self, *, mirror: bool) -> Float:
        """The step [R, C] of least magnitude that clips nothing; negative steps only if blocks may be mirrored."""
        upright = np.maximum(quotient(self.most, self.high), quotient(self.least, self.low))
        if not mirror:
            return upright
        mirrored = np.maximum(quotient(self.most, -self.low), quotient(self.least, -self.high))
        return np.where(mirrored < upright, -mirrored, upright)

    def best(self, steps: list[Float]) -> Float:
        """For each block the step of least squared error among some, [R, C] each; the first of equal ones."""
        best = steps[0].copy()
        for at, tile in self:
            least = self._error(at, tile, steps[0][at])
            for step in steps[1:]:
                error = self._error(at, tile, step[at])
                np.copyto(best[at], step[at], where=error < least)
                np.minimum(error, least, out=least)
        return best

    def errors(self, step: Float) -> npt.NDArray[np.float64]:
        """Squared error of each column [C] for steps [R, C]."""
        total = np.zeros(step.shape[1])
        for at, tile in self:
            total[at[1]] += self._error(at, tile, step[at]).sum(axis=0, dtype=np.float64)
        return total

    def fit(self, steps: Float) -> Float:
        """Sums over each block of ``code * value`` and of ``code²``, [S, 2, R, C], for nearest codes and S steps
        [S, R, C]."""
        sums = np.empty((len(steps), 2, *steps.shape[1:]), np.float32)
        inverses = quotient(np.float32(1), steps)
        for at, tile in self:
            for inverse, (cross, power) in zip(inverses, sums, strict=True):
                codes = self._nearest(at, tile, inverse[at])
                weighted = self._weighted(at, codes)
                np.einsum("rlc,rlc->rc", weighted, tile, out=cross[at])
                np.einsum("rlc,rlc->rc", weighted, codes, out=power[at])
        return sums

    def codes(self, step: Float, zero_points: Float | None, out: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Write the nearest codes for steps [R, C] into an array of integers [R, L, C].

        Returns:
            Of each column the squared error and the sum of squares over its unit squared, [2, C].
        """
        inverse, sums = quotient(np.float32(1), step), np.zeros((2, step.shape[1]))
        for at, tile in self:
            codes = self._nearest(at, tile, inverse[at])
            stored = codes if zero_points is None else np.add(codes, zero_points[at][:, None], out=self._beside(codes))
            np.copyto(out[at[0], :, at[1]], stored, casting="unsafe")
            codes *= step[at][:, None]
            difference = np.subtract(tile, codes, out=codes)
            for total, values in zip(sums, (difference, tile), strict=True):
                total[at[1]] += np.einsum("rlc,rlc->rc", values, values).sum(axis=0, dtype=np.float64)
        return sums

    def _error(self, at: At, tile: Float, step: Float) -> Float:
        """Squared error [r, c] of each block of a tile."""
        codes = self._nearest(at, tile, quotient(np.float32(1), step))
        codes *= step[:, None]
        difference = np.subtract(tile, codes, out=codes)
        error: Float = np.einsum("rlc,rlc->rc", self._weighted(at, difference), difference)
        return error

    def _nearest(self, at: At, tile: Float, inverse: Float) -> Float:
        """Codes less their zero points [r, L, c] for inverse steps [r, c]; the next call reuses the array."""
        codes: Float = self._codes[: tile.size].reshape(tile.shape)
        np.multiply(tile, inverse[:, None], out=codes)
        np.rint(codes, out=codes)
        low, high = (side if isinstance(side, float) else side[at][:, None] for side in (self.low, self.high))
        codes.clip(low, high, out=codes)
        return codes

    def _weighted(self, at: At, values: Float) -> Float:
        if self.importance is None:
            return values
        weighted: Float = np.multiply(values, self.importance[at[0]], out=self._beside(values))
        return weighted

    def _beside(self, values: Float) -> Float:
        """An array of the same shape; the next call returns it again."""
        beside: Float = self._other[: values.size].reshape(values.shape)
        return beside


def quotient(numerator: Float | np.float32, denominator: float | Float) -> Float:
    """`numerator / denominator`, and 0 where the denominator is 0."""
    shape = np.shape(denominator)
    if np.ndim(numerator):
        shape = np.broadcast_shapes(np.shape(numerator), shape)
    return np.divide(numerator, denominator, out=np.zeros(shape, np.float32), where=np.not_equal(denominator, 0))
