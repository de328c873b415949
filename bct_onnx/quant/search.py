"""Scales and multipliers of one strip: the search that decides how good a block format is.

A strip is `values[R, L, C]`: R blocks of L values in each of C columns (or columns of two-dimensional blocks). All that
is decided here is decided per column, in element-wise operations, so the width of a strip never changes a result.
Scales carry 11 significant bits, hence are exact in float16 wherever that has the range, and a two-level weight
`scale * multiplier * code` is exact in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from bct_onnx.quant.scheme import Scheme
from bct_onnx.quant.strips import Float

# Block scales tried, times the least one that clips nothing; then times the best of those.
COARSE = (1.06, 0.9, 0.77, 0.65, 0.55, 0.47, 0.4, 0.33)
FINE = (0.88, 0.91, 0.94, 0.97, 1.03, 1.06, 1.09)
# Column scales tried, times the least one at which no multiplier is out of range. Less pays where one block stands out.
COLUMN = (0.45, 0.6, 0.75, 0.86, 0.93, 1.0, 1.07, 1.14, 1.22, 1.31, 1.42)


@dataclass
class Strip:
    """Values to quantize and what their codes may be; finds codes and their error for given block scales.

    Args:
        values: float32 [R, L, C], of magnitude about 1.
        low: Least `code - zero_point`: one number, or float32 [R, C].
        high: Largest `code - zero_point`.
        root: Square roots of the importance of each value, float32 [R, L, 1], or None.
    """

    values: Float
    low: float | Float
    high: float | Float
    root: Float | None = None
    _scaled: Float = field(init=False, repr=False)
    _codes: Float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._scaled, self._codes = np.empty_like(self.values), np.empty_like(self.values)

    def no_clip(self, *, mirror: bool) -> Float:
        """The scale [R, C] of least magnitude that clips nothing; negative scales only if blocks may be mirrored."""
        most, least = self.values.max(axis=1), self.values.min(axis=1)
        upright = np.maximum(quotient(most, self.high), quotient(least, self.low))
        if not mirror:
            return upright
        mirrored = np.maximum(quotient(most, -self.low), quotient(least, -self.high))
        return np.where(mirrored < upright, -mirrored, upright)

    def codes(self, scale: Float) -> Float:
        """Nearest codes less their zero point [R, L, C] for block scales [R, C]; the next call reuses the array."""
        np.multiply(self.values, quotient(np.float32(1), scale)[:, None], out=self._scaled)
        np.rint(self._scaled, out=self._codes)
        low, high = (side if isinstance(side, float) else side[:, None] for side in (self.low, self.high))
        return np.clip(self._codes, low, high, out=self._codes)

    def error(self, scale: Float) -> Float:
        """Weighted squared error [R, C] of each block."""
        self._scaled -= self.codes(scale)
        if self.root is not None:
            self._scaled *= self.root
        return fold(np.square(self._scaled, out=self._scaled), axis=1) * np.square(scale)

    def refit(self, multipliers: Float, scale: Float) -> Float:
        """Column scale [C] of least squared error for the codes that `scale * multipliers` gives."""
        codes = self.codes(scale * multipliers)
        weight = np.float32(1) if self.root is None else np.square(self.root)
        cross = multipliers * fold(codes * self.values * weight, axis=1)
        power = np.square(multipliers) * fold(np.square(codes) * weight, axis=1)
        return quotient(fold(cross, axis=0), fold(power, axis=0))


@dataclass(frozen=True)
class TwoLevel:
    """Column scales [C], whole multipliers [R, C] (as floats), and the squared error [C] they give."""

    scale: Float
    multipliers: Float
    error: Float

    def or_better(self, other: TwoLevel) -> TwoLevel:
        """Of each column the one with less error; this one if they are equal."""
        better = other.error < self.error
        return TwoLevel(
            np.where(better, other.scale, self.scale),
            np.where(better, other.multipliers, self.multipliers),
            np.minimum(other.error, self.error),
        )


def block_scales(strip: Strip, scheme: Scheme) -> Float:
    """Scale [R, C] of each block by itself, in 11 bits except in float32 schemes."""
    finish = _unchanged if scheme.scale == "float32" else round_11_bits
    no_clip = strip.no_clip(mirror=scheme.mirrors)
    least = no_clip if scheme.scale == "float32" else round_11_bits(no_clip, up=True)
    if scheme.search == "max":
        return least
    best = _best_factor(strip, least, no_clip, COARSE, finish)
    return _best_factor(strip, best, best, FINE, finish)


def two_level(strip: Strip, scheme: Scheme) -> TwoLevel:
    """Column scales in 11 bits, and multipliers from `multiplier_min` to `multiplier_max`."""
    no_clip = strip.no_clip(mirror=scheme.mirrors)
    best = _multipliers_up(strip, scheme, no_clip)
    if scheme.search == "max":
        return best
    ideal = _best_factor(strip, no_clip, no_clip, COARSE, _unchanged)
    least = _least_column_scale(ideal, scheme)
    for factor in COLUMN:
        best = best.or_better(_multipliers_near(strip, scheme, ideal, least * np.float32(factor)))
    return best.or_better(_multipliers_near(strip, scheme, ideal, strip.refit(best.multipliers, best.scale)))


def shift(strip: Strip, scheme: Scheme) -> TwoLevel:
    """Powers of two: per block `2**e`, `e = ceil(log2(max|block| / code_max))`, or by "mse" up to 3 less.

    The column scale is the largest of them over `multiplier_max`; blocks below it are raised to it.
    """
    mantissa, exponent = np.frexp(np.abs(strip.values).max(axis=1) / np.float32(scheme.code_max))
    power: Float = np.ldexp((mantissa > 0).astype(np.float32), exponent - (mantissa == 0.5))
    by_max = _powers(strip, scheme, power)
    if scheme.search == "max":
        return by_max
    return by_max.or_better(_powers(strip, scheme, _best_factor(strip, power, power, (0.5, 0.25, 0.125), _unchanged)))


def round_11_bits(scale: Float, *, up: bool = False) -> Float:
    """Scales rounded to 11 significant bits, to nearest even or away from zero."""
    mantissa, exponent = np.frexp(scale)
    whole = np.abs(mantissa) * np.float32(2048)
    rounded = np.copysign(np.ceil(whole) if up else np.rint(whole), mantissa)
    result: Float = np.ldexp(rounded, exponent - 11)
    return result


def fold(array: Float, *, axis: int) -> Float:
    """Sum over an axis by halves, in place: element-wise, so columns never influence each other's rounding."""
    rows = np.moveaxis(array, axis, 0)
    length = len(rows)
    while length > 1:
        half = length // 2
        rows[:half] += rows[length - half : length]
        length -= half
    total: Float = rows[0]
    return total


def quotient(numerator: Float | np.float32, denominator: float | Float) -> Float:
    """`numerator / denominator`, and 0 where the denominator is 0."""
    shape = np.broadcast_shapes(np.shape(numerator), np.shape(denominator))
    return np.divide(numerator, denominator, out=np.zeros(shape, np.float32), where=np.not_equal(denominator, 0))


def _best_factor(
    strip: Strip, best: Float, base: Float, factors: tuple[float, ...], finish: Callable[[Float], Float]
) -> Float:
    """For each block the scale of least error among `best` and `finish(base * factor)`."""
    error = strip.error(best)
    for factor in factors:
        trial = finish(base * np.float32(factor))
        tried = strip.error(trial)
        best, error = np.where(tried < error, trial, best), np.minimum(tried, error)
    return best


def _unchanged(scale: Float) -> Float:
    return scale


def _least_column_scale(ideal: Float, scheme: Scheme) -> Float:
    """The least column scale [C] at which no multiplier is out of range."""
    end = np.where(ideal < 0, np.float32(scheme.multiplier_min), np.float32(scheme.multiplier_max))
    least: Float = (ideal / end).max(axis=0)
    return least


def _multipliers_up(strip: Strip, scheme: Scheme, no_clip: Float) -> TwoLevel:
    """The least column scales and multipliers that clip nothing."""
    scale = round_11_bits(_least_column_scale(no_clip, scheme), up=True)
    wanted = quotient(no_clip, scale)
    multipliers = _in_range(scheme, np.ceil(np.abs(wanted)), wanted)
    return TwoLevel(scale, multipliers, fold(strip.error(multipliers * scale), axis=0))


def _multipliers_near(strip: Strip, scheme: Scheme, ideal: Float, scale: Float) -> TwoLevel:
    """The better of the two multipliers around `ideal / scale`, for column scales rounded to 11 bits."""
    scale = round_11_bits(scale)
    wanted = quotient(ideal, scale)
    below = np.floor(np.abs(wanted))
    lower, upper = _in_range(scheme, below, wanted), _in_range(scheme, below + 1, wanted)
    error_lower, error_upper = strip.error(lower * scale), strip.error(upper * scale)
    multipliers = np.where(error_upper < error_lower, upper, lower)
    return TwoLevel(scale, multipliers, fold(np.minimum(error_lower, error_upper), axis=0))


def _in_range(scheme: Scheme, size: Float, sign: Float) -> Float:
    """Multipliers of a magnitude from 1 and a sign."""
    end = np.where(sign < 0, np.float32(-scheme.multiplier_min), np.float32(scheme.multiplier_max))
    size = np.clip(size, 1, end)
    return np.where(sign < 0, -size, size)


def _powers(strip: Strip, scheme: Scheme, power: Float) -> TwoLevel:
    scale = power.max(axis=0) / np.float32(scheme.multiplier_max)
    multipliers = np.maximum(quotient(power, scale), 1)
    return TwoLevel(scale, multipliers, fold(strip.error(multipliers * scale), axis=0))
