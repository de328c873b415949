"""A weight in blocks: codes and scales, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from bct_onnx.errors import InputModelError, UsageError
from bct_onnx.quant.scheme import Scheme
from bct_onnx.quant.search import Float, Strip, block_scales, shift, two_level

STRIP_VALUES = 1 << 18  # values worked on at once: small enough for the cache of one core
_HALF_MIN, _HALF_MAX = 2.0**-14, 65504.0  # float16's normal range


@dataclass(frozen=True, eq=False)
class Blocks:
    """One quantized weight `w[K, N]`; see `Scheme` for the formula.

    Args:
        scheme: How it is stored.
        shape: (K, N).
        codes: int8 [K, N], or uint8 with zero points.
        multipliers: uint8 [ceil(K / rows), ceil(N / columns)] for blocks of rows x columns; None where the scales are
            floats per block, and where every multiplier is 1 (8 bits).
        scale: Integer schemes: [ceil(N / columns)]; float schemes: [ceil(K / rows), ceil(N / columns)]. float16, or
            float32 in float32 schemes and where a scale leaves float16's normal range.
        zero_points: uint8 [ceil(K / rows), ceil(N / columns)], or None for symmetric codes.
    """

    scheme: Scheme
    shape: tuple[int, int]
    codes: npt.NDArray[Any]
    multipliers: npt.NDArray[np.uint8] | None
    scale: npt.NDArray[Any]
    zero_points: npt.NDArray[np.uint8] | None = None

    def dequantize(self) -> Float:
        """The weight as float32 [K, N]; of an integer scheme exactly `scale * int8()`."""
        scale = self.scale.astype(np.float32)
        if self.scheme.is_integer:
            weight = self.int8().astype(np.float32)
            weight *= self._columns(scale)
            return weight
        weight = self._centred(np.dtype(np.float32))
        self._scale_blocks(weight, scale)
        return weight

    def int8(self) -> npt.NDArray[np.int8]:
        """`multiplier * (code - zero_point)`, int8 [K, N], exactly.

        Raises:
            UsageError: The scheme has a float scale per block.
        """
        if not self.scheme.is_integer:
            raise UsageError(
                f"{self.scheme} is not an int8 matrix with one scale per column", fix="use scale=two-level"
            )
        product = self._centred(np.dtype(np.int8))
        if self.multipliers is not None:
            self._scale_blocks(product, self.multipliers.astype(np.int8))
        return product

    @property
    def nbytes(self) -> int:
        """Bytes of codes, multipliers, scales and zero points as they are written to ONNX."""
        return self.scheme.nbytes(*self.shape, scale_bytes=self.scale.dtype.itemsize)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per value, scales and all."""
        return 8 * self.nbytes / (self.shape[0] * self.shape[1])

    def _centred(self, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Codes less their zero points, as a new array."""
        centred = self.codes.astype(dtype)
        if self.zero_points is not None:
            for rows, points in zip(self._rows(), self.zero_points.astype(dtype), strict=True):
                centred[rows] -= self._columns(points)
        return centred

    def _scale_blocks(self, values: npt.NDArray[Any], scales: npt.NDArray[Any]) -> None:
        for rows, line in zip(self._rows(), scales, strict=True):
            values[rows] *= self._columns(line)

    def _rows(self) -> Iterator[slice]:
        size = self.scheme.block_shape[0]
        return (slice(start, start + size) for start in range(0, self.shape[0], size))

    def _columns(self, line: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """One value per column from one per column of blocks."""
        size = self.scheme.block_shape[1]
        return line if size == 1 else np.repeat(line, size)[: self.shape[1]]


def quantize(
    weight: npt.NDArray[Any],
    scheme: Scheme,
    weights: npt.NDArray[Any] | None = None,
    *,
    strip_values: int = STRIP_VALUES,
) -> Blocks:
    """Quantize one weight.

    Works through strips of columns, so that temporaries stay small whatever the size; a memory-mapped array is fine.

    Args:
        weight: [K, N], float16, bfloat16, float32 or float64. It is not modified.
        scheme: How to store it.
        weights: Importance of each row of `weight`, [K], not negative (the diagonal of X^T X): what the "mse" search
            weighs squared errors with. None: all alike.
        strip_values: Values per strip. It never changes the result.

    Raises:
        InputModelError: The weight is not a non-empty float matrix, or holds NaN or Inf, or `weights` does not fit.

    >>> blocks = quantize(np.linspace(-1, 1, 64, dtype=np.float32).reshape(32, 2), Scheme(4, 16))
    >>> blocks.codes.shape, blocks.multipliers.shape, blocks.scale.dtype
    ((32, 2), (2, 2), dtype('float16'))
    """
    _check_weight(weight)
    k, n = weight.shape
    layout = _Layout.of(scheme, k)
    importance = None if weights is None else layout.roots(_check_weights(weights, k))
    codes = np.empty((k, n), np.int8 if scheme.symmetric else np.uint8)
    grid = layout.rows, ceil(n / layout.width)
    multipliers = np.ones(grid, np.uint8)
    zero_points = np.zeros(grid, np.uint8)
    scale = np.zeros(grid, np.float64)
    wide = layout.width * max(1, strip_values // (layout.rows * layout.size * layout.width))
    for start in range(0, n, wide):
        stop = min(start + wide, n)
        at = np.s_[:, start // layout.width : ceil(stop / layout.width)]
        values, exponent = _normal(layout.gather(weight[:, start:stop]))
        zero_points[at], low, high = _zero_points(values, scheme)
        strip = Strip(values, low, high, importance)
        column_scale, multipliers[at], differences = _solve(strip, scheme)
        scale[at] = np.ldexp(column_scale.astype(np.float64), exponent)
        if not scheme.symmetric:
            differences += zero_points[at][:, None]
        codes[:, start:stop] = layout.scatter(differences, stop - start)
    return Blocks(
        scheme,
        (k, n),
        codes,
        multipliers if scheme.multiplier_bits else None,
        _store(scale[0] if scheme.is_integer else scale, scheme),
        None if scheme.symmetric else zero_points,
    )


@dataclass(frozen=True)
class _Layout:
    """How columns [K, n] become a strip [rows, size * width, columns of blocks], filled up with zeros."""

    k: int
    rows: int  # blocks along K
    size: int  # rows of a block
    width: int  # columns of a block

    @classmethod
    def of(cls, scheme: Scheme, k: int) -> _Layout:
        size, width = scheme.block_shape
        size = k if scheme.is_integer and not scheme.multiplier_bits else min(size, k)
        return cls(k, ceil(k / size), size, width)

    def gather(self, columns: npt.NDArray[Any]) -> Float:
        count = ceil(columns.shape[1] / self.width)
        full = np.zeros((self.rows * self.size, count * self.width), np.float32)
        with np.errstate(over="ignore"):
            full[: self.k, : columns.shape[1]] = columns
        blocks = full.reshape(self.rows, self.size, count, self.width).transpose(0, 1, 3, 2)
        return np.ascontiguousarray(blocks).reshape(self.rows, self.size * self.width, count)

    def scatter(self, strip: Float, columns: int) -> Float:
        blocks = strip.reshape(self.rows, self.size, self.width, -1).transpose(0, 1, 3, 2)
        return blocks.reshape(self.rows * self.size, -1)[: self.k, :columns]

    def roots(self, importance: Float) -> Float:
        full = np.zeros(self.rows * self.size, np.float32)
        full[: self.k] = np.sqrt(importance)
        return np.repeat(full.reshape(self.rows, self.size), self.width, axis=1)[:, :, None]


def _normal(values: Float) -> tuple[Float, npt.NDArray[np.int32]]:
    """Values times a power of two per column, so that the largest magnitude is in [0.5, 1), and those exponents."""
    most = np.abs(values).max(axis=(0, 1))
    if not np.isfinite(most).all():
        raise InputModelError("a weight holds NaN or Inf", fix="export the model again from a sound checkpoint")
    exponent = np.clip(np.frexp(most)[1], -126, 127).astype(np.int32)
    values *= np.ldexp(np.float32(1), -exponent)
    return values, exponent


def _zero_points(values: Float, scheme: Scheme) -> tuple[Float, float | Float, float | Float]:
    """Zero points [R, C], and the least and largest `code - zero_point`."""
    if scheme.symmetric:
        return np.zeros((len(values), values.shape[2]), np.float32), float(scheme.code_min), float(scheme.code_max)
    least, most = np.minimum(values.min(axis=1), 0), np.maximum(values.max(axis=1), 0)
    span = np.where(most > least, most - least, 1)
    zero_points = np.rint(-least / span * np.float32(scheme.code_max))
    return zero_points, -zero_points, np.float32(scheme.code_max) - zero_points


def _solve(strip: Strip, scheme: Scheme) -> tuple[Float, Float, Float]:
    """Scales ([C], or [R, C] of a float scheme), multipliers [R, C] and codes less zero points [R, L, C]."""
    if scheme.multiplier_bits:
        scale, multipliers = (shift if scheme.scale == "shift" else two_level)(strip, scheme)
        codes = strip.codes(scale * multipliers)
        return scale, np.where(np.abs(codes).max(axis=1) > 0, multipliers, 0), codes
    if scheme.scale == "shift":
        power, _ = shift(strip, scheme)
        scale = power[None]
    else:
        scale = block_scales(strip, scheme)
    return scale, np.ones_like(scale), strip.codes(scale)


def _store(scale: npt.NDArray[np.float64], scheme: Scheme) -> npt.NDArray[Any]:
    used = np.abs(scale[scale != 0])
    fits = bool(((used >= _HALF_MIN) & (used <= _HALF_MAX)).all())
    with np.errstate(under="ignore"):
        return scale.astype(np.float16 if fits and scheme.scale != "float32" else np.float32)


def _check_weight(weight: npt.NDArray[Any]) -> None:
    if weight.ndim != 2 or not weight.size:
        raise InputModelError(
            f"a weight of shape {weight.shape} cannot be quantized", why="it is not a non-empty matrix"
        )
    if weight.dtype.kind != "f" and weight.dtype != ml_dtypes.bfloat16:
        raise InputModelError(f"a weight of type {weight.dtype} cannot be quantized", why="it is not a float matrix")


def _check_weights(weights: npt.NDArray[Any], k: int) -> Float:
    importance = np.asarray(weights, dtype=np.float32)
    if importance.shape != (k,) or not (np.isfinite(importance).all() and (importance >= 0).all()):
        raise InputModelError(
            f"importance must be {k} finite numbers not below 0", where=f"weights of shape {importance.shape}"
        )
    return importance
