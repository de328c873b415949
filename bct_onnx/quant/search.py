"""Scales, multipliers and zero points of one strip: the search that decides how good a block format is.

A strip is `values[R, L, C]`: R blocks of L values in each of C columns (or columns of two-dimensional blocks). All that
is decided here is decided per column, in element-wise operations, so the width of a strip never changes a result.
Scales carry 11 significant bits, hence are exact in float16 wherever that has the range, and a two-level weight
`scale * multiplier * code` is exact in float32.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bct_onnx.quant.scheme import Scheme

Float = npt.NDArray[np.float32]
Int = npt.NDArray[np.int16]

# Scales tried, as fractions of the least scale that clips nothing: first every one, then the neighbours of the best.
COARSE = tuple(float(1.06 * 0.92**i) for i in range(16))
FINE = (0.945, 0.97, 1.015, 1.04)
# Column scales tried: those that give the largest block scale of the column this multiplier (times max_multiplier).
TOPS = (1.0, 0.94, 0.88, 0.82, 0.76, 0.7)


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

    def no_clip(self) -> Float:
        """The least scale [R, C] of each block that clips nothing."""
        return np.maximum(_ratio(self.values.max(axis=1), self.high), _ratio(self.values.min(axis=1), self.low))

    def codes(self, scale: Float) -> Float:
        """Nearest codes less their zero point [R, L, C] for block scales [R, C]; the next call reuses the array."""
        np.multiply(self.values, _ratio(np.float32(1), scale)[:, None], out=self._scaled)
        np.rint(self._scaled, out=self._codes)
        low, high = (side if isinstance(side, float) else side[:, None] for side in (self.low, self.high))
        return np.clip(self._codes, low, high, out=self._codes)

    def error(self, scale: Float) -> Float:
        """Weighted squared error [R, C] of each block."""
        self.codes(scale)
        self._scaled -= self._codes
        return self._norm(self._scaled) * np.square(scale)

    def refit(self, multipliers: Float, scale: Float) -> Float:
        """Column scale [C] of least squared error for the codes that `scale * multipliers` gives."""
        codes = self.codes(scale * multipliers)
        weight = 1 if self.root is None else np.square(self.root)
        cross = multipliers * fold(codes * self.values * weight, axis=1)
        power = np.square(multipliers) * fold(codes * codes * weight, axis=1)
        return _ratio(fold(cross, axis=0), fold(power, axis=0))

    def _norm(self, difference: Float) -> Float:
        if self.root is not None:
            difference *= self.root
        return fold(np.square(difference, out=difference), axis=1)


def block_scales(strip: Strip, scheme: Scheme) -> Float:
    """Scale [R, C] of each block alone, in 11 bits for float16 schemes."""
    most = strip.no_clip()
    if scheme.search == "max":
        return most if scheme.scale == "float32" else round_11_bits(most, up=True)
    finish = round_11_bits if scheme.scale != "float32" else (lambda scale: scale)
    best, error = finish(most), None
    for candidates in (COARSE, FINE):
        centre = most if candidates is COARSE else best
        for fraction in candidates:
            best, error = _better(strip, best, error, finish(centre * np.float32(fraction)))
    return best


def two_level(strip: Strip, scheme: Scheme) -> tuple[Float, Float]:
    """Column scales [C] in 11 bits and whole multipliers [R, C]."""
    ideal = block_scales(strip, scheme)
    peak, top = ideal.max(axis=0), np.float32(scheme.max_multiplier)
    if scheme.search == "max":
        scale = round_11_bits(peak / top, up=True)
        return scale, np.minimum(np.ceil(_ratio(ideal, scale)), top)
    best = _fit(strip, ideal, round_11_bits(peak / top), top)
    for fraction in TOPS:
        best = best.or_better(_fit(strip, ideal, round_11_bits(peak / (top * np.float32(fraction))), top))
    best = best.or_better(_fit(strip, ideal, round_11_bits(strip.refit(best.multipliers, best.scale)), top))
    return best.scale, best.multipliers


def shift(strip: Strip, scheme: Scheme) -> tuple[Float, Float]:
    """Column scales [C] and multipliers [R, C]: `2**e`, `e = ceil(log2(max|block| / code_max))` or up to 3 less."""
    least = np.abs(strip.values).max(axis=1) / np.float32(scheme.code_max)
    mantissa, exponent = np.frexp(least)
    power = np.where(least > 0, np.ldexp(np.float32(1), exponent - (mantissa == 0.5)), 0).astype(np.float32)
    if scheme.search == "mse":
        error = None
        best = power
        for fraction in (1.0, 0.5, 0.25, 0.125):
            best, error = _better(strip, best, error, power * np.float32(fraction))
        power = best
    scale = power.max(axis=0) / np.float32(scheme.max_multiplier)
    return scale, np.maximum(_ratio(power, scale), 1)


def round_11_bits(scale: Float, *, up: bool = False) -> Float:
    """Scales rounded to 11 significant bits, to nearest even or up."""
    mantissa, exponent = np.frexp(scale)
    rounded = (np.ceil if up else np.rint)(mantissa * np.float32(2048))
    result: Float = np.ldexp(rounded, exponent - 11).astype(np.float32)
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


def _ratio(numerator: Float | np.float32, denominator: float | Float) -> Float:
    """Quotient, and 0 where the denominator is 0."""
    shape = np.broadcast_shapes(np.shape(numerator), np.shape(denominator))
    return np.divide(numerator, denominator, out=np.zeros(shape, np.float32), where=np.not_equal(denominator, 0))


def _better(strip: Strip, best: Float, error: Float | None, trial: Float) -> tuple[Float, Float]:
    tried = strip.error(trial)
    if error is None:
        return trial, tried
    return np.where(tried < error, trial, best), np.minimum(tried, error)


@dataclass(frozen=True)
class _TwoLevel:
    """Column scales [C], multipliers [R, C], and the squared error [C] they give."""

    scale: Float
    multipliers: Float
    error: Float

    def or_better(self, other: _TwoLevel) -> _TwoLevel:
        better = other.error < self.error
        return _TwoLevel(
            np.where(better, other.scale, self.scale),
            np.where(better, other.multipliers, self.multipliers),
            np.minimum(other.error, self.error),
        )


def _fit(strip: Strip, ideal: Float, scale: Float, top: np.float32) -> _TwoLevel:
    """The best multipliers near `ideal / scale` for column scales [C]."""
    below = np.clip(np.floor(_ratio(ideal, scale)), 1, top)
    above = np.minimum(below + 1, top)
    error_below, error_above = strip.error(below * scale), strip.error(above * scale)
    multipliers = np.where(error_above < error_below, above, below)
    return _TwoLevel(scale, multipliers, fold(np.minimum(error_below, error_above), axis=0))
