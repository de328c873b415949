"""How often values of each size occur, and the range of 8-bit codes that serves them best.

The bins are fixed: all float32 numbers that share their sign, exponent and first four bits of the fraction, 16 bins per
power of two. So histograms of batches add up, without knowing beforehand how large values become.

A value counts by the inverse of the mean square of its row: what is lost in a token is compared to what the token has,
because normalizations rescale tokens one by one. A few tokens whose values are many times larger than those of all
others would decide everything otherwise.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

DROPPED = 19
"""Low bits of a float32 that its bin does not tell."""

BINS = 1 << (32 - DROPPED)

COUNTED = 1 << 18
"""Values of one array that are looked at, about; of longer ones every so-manieth row."""

SHARES = np.geomspace(1, 1 / 32, 61)
"""Where ranges may end, as a share of the largest magnitude."""

STEPS = 255
"""Steps between the first and the last 8-bit code."""

CLIPPED, CLIPPED_RANDOM = 0.25, 4.0
"""What the squared error of clipping counts for against that of rounding. In text, large values belong to few tokens
and channels, that the outputs depend on less: on minilm-sst2 1 costs 1 dB of the outputs, 5 costs 2. How often a value
occurs among random tokens says less: what is rare there may be frequent in text."""

Vector = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Weights of values by bin.

    Attributes:
        weights: float64, [`BINS`]: of the bin that a float32's first 13 bits name.
    """

    weights: Vector

    @classmethod
    def of(cls, rows: npt.NDArray[np.float32]) -> Histogram:
        """Of the values of an array, [N, K].

        >>> Histogram.of(np.array([[3, 4], [30, 40]], np.float32)).weights.sum()
        np.float64(0.1616)
        """
        thinned = np.ascontiguousarray(rows[:: max(1, rows.size // COUNTED)])
        weights = np.square(thinned, dtype=np.float64)
        power = weights.sum(axis=1)
        share = np.divide(rows.shape[1], power, out=np.zeros_like(power), where=power > 0)
        weights[:] = share[:, None]  # in the place of the squares: fresh memory takes longer than the sums
        bins = thinned.view(np.uint32) >> np.uint32(DROPPED)
        return cls(np.bincount(bins.reshape(-1), weights.reshape(-1), BINS).astype(np.float64, copy=False))

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(self.weights + other.weights)

    def seen(self) -> tuple[Vector, Vector]:
        """Values, the middles of bins, and the weight of each, [N] both: all that are finite.

        >>> values, weights = Histogram.of(np.ones((4, 2), np.float32)).seen()
        >>> values.round(2).tolist(), weights.tolist()
        ([1.03], [8.0])
        """
        middles, _, weights = self._bins()
        return middles, weights

    def _bins(self) -> tuple[Vector, Vector, Vector]:
        """Middles, widths and weights of the bins that hold something."""
        bins = np.flatnonzero(self.weights)
        edges = (bins.astype(np.uint32) << np.uint32(DROPPED)).view(np.float32).astype(np.float64)
        known = np.isfinite(edges)
        edges, weights = edges[known], self.weights[bins[known]]
        widths = np.ldexp(1.0, np.frexp(edges)[1] - 5)
        return edges + np.copysign(widths / 2, edges), widths, weights

    def best_range(self, low: float, high: float, *, clipped: float = CLIPPED) -> tuple[float, float]:
        """The range within ``low <= 0 <= high`` whose 256 codes have the least squared error, clipping included.

        A few values far out make all steps large; the finer steps of a shorter range can be worth more than what
        clipping them costs. Both ends move in together: [max(low, -t), min(high, t)]. Whatever lies outside of ``low``
        and ``high`` is taken to lie there. Squared errors of clipping count ``clipped`` times.

        >>> ones = np.linspace(-1, 1, 1001, dtype=np.float32)
        >>> Histogram.of(ones[None]).best_range(-1.0, 1.0)
        (-1.0, 1.0)
        >>> rare = np.append(np.tile(ones, 250), np.float32(9))
        >>> Histogram.of(rare[None]).best_range(-1.0, 9.0)[1] < 3
        True
        """
        middles, widths, weights = self._bins()
        values = np.clip(middles, low, high)
        tops = max(-low, high) * SHARES
        ranges = [(max(low, -float(top)), min(high, float(top))) for top in tops]
        errors = [
            float(weights @ _squared_error(values, widths, *ends, clipped)) for ends in ranges if ends[0] < ends[1]
        ]
        if errors:
            return ranges[int(np.argmin(errors))]
        return (low, high)


def _squared_error(values: Vector, widths: Vector, first: float, last: float, clipped: float) -> Vector:
    """Mean squared error of bins: as of one value where they are narrower than a step, as of values spread evenly over
    steps otherwise; that of clipping comes on top."""
    step = (last - first) / STEPS
    inside = np.clip(values, first, last)
    single = (inside - np.rint(inside / step) * step) ** 2 + widths**2 / 12
    error: Vector = np.where(widths < step, single, step**2 / 12) + clipped * (values - inside) ** 2
    return error
