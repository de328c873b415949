"""Scales of blocks, each by itself or as powers of two; `two_level` has those that share a scale per column.

Scales carry 11 significant bits, hence are exact in float16 wherever that has the range, and a two-level weight
`scale * multiplier * code` is exact in float32.
"""

from __future__ import annotations

import numpy as np

from bct_onnx.quant.scheme import Scheme
from bct_onnx.quant.strips import Float
from bct_onnx.quant.tiles import Tiles, quotient

# Block scales tried, times the least one that clips nothing; then times the best of those.
COARSE = (1.06, 0.9, 0.77, 0.65, 0.55, 0.47, 0.4, 0.33)
FINE = (0.88, 0.91, 0.94, 0.97, 1.03, 1.06, 1.09)


def block_scales(tiles: Tiles, scheme: Scheme) -> Float:
    """Scale [R, C] of each block by itself, in 11 bits except in float32 schemes."""
    exact = scheme.scale == "float32"
    no_clip = tiles.no_clip(mirror=scheme.mirrors)
    least = no_clip if exact else round_11_bits(no_clip, up=True)
    if scheme.search == "max":
        return least
    best, base = least, no_clip
    for factors in (COARSE, FINE):
        trials = [base * np.float32(factor) for factor in factors]
        base = best = tiles.best([best, *(trials if exact else map(round_11_bits, trials))])
    return best


def shift(tiles: Tiles, scheme: Scheme) -> tuple[Float, Float]:
    """Powers of two: column scales [C] and multipliers [R, C].

    Per block `2**e`, `e = ceil(log2(max|block| / code_max))`, or by "mse" up to 3 less. The column scale is the largest
    of them over `multiplier_max`; blocks below it are raised to it.
    """
    mantissa, exponent = np.frexp(np.maximum(tiles.most, -tiles.least) / np.float32(scheme.code_max))
    power: Float = np.ldexp((mantissa > 0).astype(np.float32), exponent - (mantissa == 0.5))
    by_max = _powers(scheme, power)
    if scheme.search == "max":
        return by_max
    by_error = _powers(scheme, tiles.best([power, *(power * np.float32(factor) for factor in (0.5, 0.25, 0.125))]))
    return better(tiles, by_max, by_error)


def better(tiles: Tiles, first: tuple[Float, Float], second: tuple[Float, Float]) -> tuple[Float, Float]:
    """Of each column the scale and multipliers of less error; the first if they are equal."""
    wins = tiles.errors(second[0] * second[1]) < tiles.errors(first[0] * first[1])
    return np.where(wins, second[0], first[0]), np.where(wins, second[1], first[1])


def round_11_bits(scale: Float, *, up: bool = False) -> Float:
    """Scales rounded to 11 significant bits, to nearest even or away from zero."""
    mantissa, exponent = np.frexp(scale)
    whole = np.abs(mantissa) * np.float32(2048)
    rounded = np.copysign(np.ceil(whole) if up else np.rint(whole), mantissa)
    result: Float = np.ldexp(rounded, exponent - 11)
    return result


def _powers(scheme: Scheme, power: Float) -> tuple[Float, Float]:
    scale = power.max(axis=0) / np.float32(scheme.multiplier_max)
    return scale, np.maximum(quotient(power, scale), 1)
