"""A weight in blocks: codes and scales, and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from bct_onnx.errors import InputModelError, UsageError
from bct_onnx.quant.error import Error
from bct_onnx.quant.packing import pack_nibbles, unpack
from bct_onnx.quant.scheme import Scheme
from bct_onnx.quant.search import block_scales, shift
from bct_onnx.quant.strips import Float, Layout, slices
from bct_onnx.quant.tiles import Tiles, quotient
from bct_onnx.quant.two_level import two_level

STRIP_VALUES = 1 << 22
"""Values decided on together: whole columns, as many as make rows of some length."""

_HALF_MIN, _HALF_MAX = 2.0**-14, 65504.0  # float16's normal range


@dataclass(frozen=True, eq=False)
class Blocks:
    """One quantized weight `w[K, N]`; see `Scheme` for the formula.

    Args:
        scheme: How it is stored.
        shape: (K, N).
        codes: int8 [K, N], or uint8 with zero points.
        multipliers: uint8 (int8 with signed scales) [ceil(K / rows), ceil(N / columns)] for blocks of rows x columns;
            None where the scales are floats per block, and where every multiplier is 1 (8 bits).
        scale: Integer schemes: [ceil(N / columns)]; float schemes: [ceil(K / rows), ceil(N / columns)]. float16, or
            float32 in float32 schemes and where a scale leaves float16's normal range.
        zero_points: uint8 [ceil(K / rows), ceil(N / columns)], or None for symmetric codes.
        packed: None, or what 4-bit codes are stored with, 0 or 8: `codes` are uint8 then, two of `code + packed` modulo
            16 in a byte along one axis, [K / 2, N] or [K, N / 2]. Half to keep, and to send.
    """

    scheme: Scheme
    shape: tuple[int, int]
    codes: npt.NDArray[Any]
    multipliers: npt.NDArray[np.integer[Any]] | None
    scale: npt.NDArray[Any]
    zero_points: npt.NDArray[np.uint8] | None = None
    packed: int | None = None

    def pack(self, flip: int, axis: int) -> Blocks:
        """The same with codes packed along an axis, as they are where these are not of 4 bits or odd in number.

        >>> blocks = quantize(np.linspace(-1, 1, 64, dtype=np.float32).reshape(32, 2), Scheme(4, 16))
        >>> blocks.pack(8, axis=1).codes.shape, bool((blocks.pack(8, axis=1).int8() == blocks.int8()).all())
        ((32, 1), True)
        """
        if self.scheme.bits != 4 or self.shape[axis] % 2:
            return self
        packed = pack_nibbles(self.codes if axis else self.codes.T, flip)
        return dataclasses.replace(self, codes=packed if axis else packed.T, packed=flip)

    def dequantize(self) -> Float:
        """The weight as float32 [K, N]; of an integer scheme exactly `scale * int8()`."""
        weight = self._centred(np.dtype(np.float32))
        for rows, line in zip(self._rows(), self.steps(), strict=True):
            weight[rows] *= line
        return weight

    def int8(self) -> npt.NDArray[np.int8]:
        """`multiplier * (code - zero_point)`, int8 [K, N], exactly.

        Raises:
            UsageError: The scheme has a float scale per block.
        """
        if not self.scheme.is_integer:
            raise UsageError(f"{self.scheme} is not an int8 matrix with a scale per column", fix="use scale=two-level")
        product = self._centred(np.dtype(np.int8))
        if self.multipliers is not None:
            for rows, line in zip(self._rows(), self.multipliers.astype(np.int8), strict=True):
                product[rows] *= self._columns(line)
        return product

    def steps(self) -> Float:
        """The scale of each block and column, float32 [ceil(K / rows), N]: `scale * multiplier`, or the float scale.

        It has a single row where blocks are as high as the weight (8 bits with column scales).
        """
        steps = self.scale.astype(np.float32)
        if self.multipliers is not None:
            steps = steps * self.multipliers.astype(np.float32)
        return self._columns(np.atleast_2d(steps))

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
        codes = self.codes
        if self.packed is not None:
            axis = int(codes.shape[1] != self.shape[1])
            codes = unpack(codes, 4, self.shape[axis], axis=axis) ^ np.uint8(self.packed)
            codes = (codes ^ np.uint8(8)).view(np.int8) - np.int8(8) if self.scheme.symmetric else codes
        centred = codes.astype(dtype)
        if self.zero_points is not None:
            for rows, points in zip(self._rows(), self.zero_points.astype(dtype), strict=True):
                centred[rows] -= self._columns(points)
        return centred

    def _rows(self) -> Iterator[slice]:
        """Rows of each block; a single one where there are neither multipliers nor block scales."""
        size = self.shape[0] if self.multipliers is None and self.scheme.is_integer else self.scheme.block_shape[0]
        return slices(self.shape[0], size)

    def _columns(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Values per column from values per column of blocks."""
        width = self.scheme.block_shape[1]
        if width == 1:
            return values
        return np.repeat(values, width, axis=-1)[..., : self.shape[1]]


def quantize(
    weight: npt.NDArray[Any],
    scheme: Scheme,
    weights: npt.NDArray[Any] | None = None,
    *,
    strip_values: int = STRIP_VALUES,
    after_read: Callable[[], None] | None = None,
) -> Blocks:
    """Quantize one weight; see `quantize_measured`.

    >>> blocks = quantize(np.linspace(-1, 1, 64, dtype=np.float32).reshape(32, 2), Scheme(4, 16))
    >>> blocks.codes.shape, blocks.multipliers.shape, blocks.scale.dtype
    ((32, 2), (2, 2), dtype('float16'))
    """
    return quantize_measured(weight, scheme, weights, strip_values=strip_values, after_read=after_read)[0]


def quantize_measured(
    weight: npt.NDArray[Any],
    scheme: Scheme,
    weights: npt.NDArray[Any] | None = None,
    *,
    strip_values: int = STRIP_VALUES,
    after_read: Callable[[], None] | None = None,
) -> tuple[Blocks, Error]:
    """Quantize one weight, and tell what that has cost.

    Works through strips of columns, so that temporaries stay small whatever the size; a memory-mapped array is fine.

    Args:
        weight: [K, N], float16, bfloat16, float32 or float64. It is not modified.
        scheme: How to store it.
        weights: Importance of each row of `weight`, [K], not negative (the diagonal of X^T X): what the "mse" search
            weighs squared errors with. None: all alike.
        strip_values: Values per strip. It never changes the result.
        after_read: See `bct_onnx.quant.strips.Layout.strips`.

    Returns:
        The blocks and their error: as `bct_onnx.quant.residual.squared_error` has it, but without another look at the
        values.

    Raises:
        InputModelError: The weight is not a non-empty float matrix, or holds NaN or Inf, or `weights` does not fit.
    """
    _check_weight(weight)
    k, n = weight.shape
    size, width = scheme.block_shape
    layout = Layout(k, n, k if scheme.is_integer and not scheme.multiplier_bits else min(size, k), width)
    importance = None if weights is None else layout.rows(_importance(weights, k))
    codes = _empty_like(weight, np.int8 if scheme.symmetric else np.uint8)
    multipliers = np.ones(layout.grid, np.int8 if scheme.multiplier_min < 0 else np.uint8)
    zero_points = np.zeros(layout.grid, np.uint8)
    scale = np.zeros(layout.grid, np.float64)
    error = np.zeros(2)
    for columns, values in layout.strips(weight, strip_values, after_read):
        at = np.s_[:, layout.block_columns(columns)]
        with layout.codes(codes, columns) as out:
            scale[at], multipliers[at], zero_points[at], errors = _quantize(values, scheme, importance, out)
        error += errors.sum(axis=1)
    kept = stored(scale[0] if scheme.is_integer else scale, scheme)
    multiplied, shifted = scheme.multiplier_bits, not scheme.symmetric
    kept_points = zero_points if shifted else None
    blocks = Blocks(scheme, (k, n), codes, multipliers if multiplied else None, kept, kept_points)
    return blocks, Error(float(error[0]), float(error[1]))


def stored(scale: npt.NDArray[np.float64], scheme: Scheme) -> npt.NDArray[Any]:
    """Scales in the type they are stored in: float16 where they are in its normal range, else float32."""
    used = np.abs(scale[scale != 0])
    fits = bool(((used >= _HALF_MIN) & (used <= _HALF_MAX)).all())
    return scale.astype(np.float16 if fits and scheme.scale != "float32" else np.float32)


def _quantize(
    values: Float, scheme: Scheme, importance: Float | None, out: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.float64], Float, Float, npt.NDArray[np.float64]]:
    """Write the codes of a strip [R, L, C] to ``out``; scales ([C], or [R, C] of a float scheme), multipliers and zero
    points [R, C], and the sums of each column's squared errors and squares [2, C]."""
    if values.shape[2] == 1:
        beside = np.empty((*out.shape[:2], 2), out.dtype)
        found = _quantize(np.repeat(values, 2, axis=2), scheme, importance, beside)
        out[...] = beside[..., :1]
        return found[0][..., :1], found[1][..., :1], found[2][..., :1], found[3][..., :1]
    extremes = np.minimum.reduce(values, axis=1), np.maximum.reduce(values, axis=1)
    exponent = _exponents(*extremes)
    least, most = (np.ldexp(extreme, -exponent) for extreme in extremes)
    zero_points, *limits = _zero_points(least, most, scheme)
    tiles = Tiles(values, exponent, (least, most), limits, importance)
    scale, multipliers = _solve(tiles, scheme)
    sums = tiles.codes(scale * multipliers, None if scheme.symmetric else zero_points, out)
    return np.ldexp(scale.astype(np.float64), exponent), multipliers, zero_points, np.ldexp(sums, 2 * exponent)


def _exponents(least: Float, most: Float) -> npt.NDArray[np.int32]:
    """Of each column the exponent of the power of two that is just above its largest magnitude."""
    largest = np.maximum(most, -least).max(axis=0)
    if not np.isfinite(largest).all():
        raise InputModelError("a weight holds NaN or Inf", fix="export the model again from a sound checkpoint")
    exponent: npt.NDArray[np.int32] = np.clip(np.frexp(largest)[1], -126, 128)
    return exponent


def _zero_points(least: Float, most: Float, scheme: Scheme) -> tuple[Float, float | Float, float | Float]:
    """Zero points [R, C], and the least and largest `code - zero_point`."""
    if scheme.symmetric:
        return np.zeros(least.shape, np.float32), float(scheme.code_min), float(scheme.code_max)
    least, most = np.minimum(least, 0), np.maximum(most, 0)
    zero_points = np.rint(quotient(-least, most - least) * np.float32(scheme.code_max))
    return zero_points, -zero_points, np.float32(scheme.code_max) - zero_points


def _solve(tiles: Tiles, scheme: Scheme) -> tuple[Float, Float]:
    """Scales ([C], or [R, C] of a float scheme) and multipliers [R, C]."""
    if not scheme.is_integer or (scheme.scale == "two-level" and not scheme.multiplier_bits):
        scale = block_scales(tiles, scheme)
        return scale, np.ones_like(scale)
    return (shift if scheme.scale == "shift" else two_level)(tiles, scheme)


def _check_weight(weight: npt.NDArray[Any]) -> None:
    if weight.ndim != 2 or not weight.size:
        raise InputModelError(f"a weight of shape {weight.shape} cannot be quantized", why="it is no non-empty matrix")
    if weight.dtype.kind != "f" and weight.dtype != ml_dtypes.bfloat16:
        raise InputModelError(f"a weight of type {weight.dtype} cannot be quantized", why="it is no float matrix")


def _importance(weights: npt.NDArray[Any], k: int) -> Float:
    """The importance of each row, the largest being 1."""
    importance = np.asarray(weights, dtype=np.float64)
    if importance.shape != (k,) or not (np.isfinite(importance).all() and (importance >= 0).all()):
        raise InputModelError(
            f"the importance of {k} rows must be {k} finite numbers from 0", where=f"weights{importance.shape}"
        )
    return (importance / (importance.max() or 1.0)).astype(np.float32)


def _empty_like(weight: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array for its codes, in the same order in memory: columns of a transposed table stay rows."""
    k, n = weight.shape
    if weight.strides[0] < weight.strides[1]:
        return np.empty((n, k), dtype).T
    return np.empty((k, n), dtype)
