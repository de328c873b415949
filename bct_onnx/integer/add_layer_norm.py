"""Residual addition and LayerNormalization in one, from two tensors of 8-bit codes to codes.

    y = gamma (x - mean) / sqrt(var + epsilon) + beta,    x = a_scale a + b_scale b

It does not depend on zero points. As `IntegerAdd` followed by `IntegerLayerNorm` it would need 19 passes over the
tensor, here 17 cheaper ones, because x itself is never made: its sums follow from those of a, b, a^2, a b, b^2, which
fit int32 for codes of 8 bits, and the factor of a row goes into the factors of a and b. With scales in units
u = max(a_scale, b_scale, sqrt(epsilon) / 2^8) / M, M = min(2^22 / N, 2^14), A0 = round(a_scale / u), B0 likewise and
R = floor(sqrt(N^2 (var + epsilon) / u^2)) + 1, an integer root after I-BERT (Kim et al. 2021, arXiv 2101.01321):

    A = round(2^14 N A0 / R),  B = round(2^14 N B0 / R),  t = a A + b B - mean(a A + b B)
    y = zero point + round((t G + H) / (K 2^14)),  G = round(K gamma / y_scale),  H = round(K 2^14 beta / y_scale)

K is that of `NormalizeCodes`. R is at least 2^-7 N max(A0, B0), which keeps a A and b B in int32 where a and b cancel.

Error, in real units, with sigma = sqrt(var + epsilon), xhat = (x - mean) / sigma, da and db the deviations of the two
codes from their row's means, E half the sum of the root mean squares of da and db:
    0.51 y_scale + |xhat| y_scale / (2 K)
    + |gamma| ((|da| + |db|) (2^-15 + u / (2 sigma)) + |xhat| (E u / sigma + 2^-11) + 2^-13)
which for codes that fill their range is below one y_scale. u and 2^-15 come from rounded factors of a and b.
Valid: hidden sizes to 4096; scales > 0, scalar or [..., 1]; 2^-60 <= epsilon <= 1; sigma at least 1/128 of both scales;
gamma and beta float32 [N] with sqrt(N) max|gamma| + max|beta| <= 100000 y_scale.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnxscript import script

from bct_onnx.integer.kernel import BCT, INT32, Array, Kernel, Tensor, f32, op
from bct_onnx.integer.layer_norm import exact_layer_norm
from bct_onnx.integer.normalize import NormalizeCodes, gamma_steps, normalize_codes, truncated
from bct_onnx.integer.square_root import FLOAT, INT64, IntegerSquareRoot, i64, square_root

UNIT = 2.0**14
"""Steps of a normalized row per standard deviation."""


@script(BCT, default_opset=op)
def IntegerAddLayerNorm(
    a: Tensor,
    a_scale: Tensor,
    b: Tensor,
    b_scale: Tensor,
    gamma: Tensor,
    beta: Tensor,
    epsilon: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
) -> Tensor:
    """LayerNormalization over the last axis of the sum of two tensors of 8-bit codes, to codes; integer variance and
    square root after I-BERT. Error about 0.6 y_scale.
    """
    one = op.Constant(value=i64([1]))
    last = op.Constant(value=i64([-1]))
    second = op.Constant(value=i64([-2]))
    length = op.Shape(gamma)
    ones = op.Expand(op.Cast(one, to=INT32), op.Concat(length, one, axis=0))

    flat_a_scale = op.Reshape(a_scale, last)
    flat_b_scale = op.Reshape(b_scale, last)
    fixed = op.Cast(op.Round(epsilon * op.Constant(value=f32([2.0**60]))), to=INT64)
    root = op.Cast(IntegerSquareRoot(fixed + one), to=FLOAT) * op.Constant(value=f32(2.0**-30))
    count = op.Cast(length, to=FLOAT)
    finest = op.Min(op.Floor(op.Constant(value=f32(2.0**22)) / count), op.Constant(value=f32(2.0**14)))
    coarsest = op.Max(flat_a_scale, flat_b_scale)
    unit = op.Max(coarsest, root * op.Constant(value=f32(2.0**-8))) / finest
    a_steps = op.Cast(op.Round(flat_a_scale / unit), to=INT64)
    b_steps = op.Cast(op.Round(flat_b_scale / unit), to=INT64)
    floor = op.Cast(op.Round((root / unit) * count), to=INT64)
    least = op.Max(a_steps, b_steps) * length / op.Constant(value=i64(2**7)) + one

    wide_a = op.Cast(a, to=INT32)
    wide_b = op.Cast(b, to=INT32)
    sums = op.MatMul(wide_a, ones)
    a_sum = op.Reshape(op.Cast(sums, to=INT64), last)
    b_sum = op.Reshape(op.Cast(op.MatMul(wide_b, ones), to=INT64), last)
    row_a = op.Unsqueeze(wide_a, second)
    row_b = op.Unsqueeze(wide_b, second)
    column_b = op.Unsqueeze(wide_b, last)
    aa = op.Reshape(op.Cast(op.MatMul(row_a, op.Unsqueeze(wide_a, last)), to=INT64), last)
    ab = op.Reshape(op.Cast(op.MatMul(row_a, column_b), to=INT64), last)
    bb = op.Reshape(op.Cast(op.MatMul(row_b, column_b), to=INT64), last)

    squares = aa * (a_steps * a_steps) + ab * (a_steps * b_steps + a_steps * b_steps) + bb * (b_steps * b_steps)
    total = a_sum * a_steps + b_sum * b_steps
    power = squares * length - total * total + floor * floor + one
    deviation = op.Max(IntegerSquareRoot(power) + one, least)
    half = deviation / op.Constant(value=i64(2))
    scaled = length * op.Constant(value=i64(2**14))
    a_factor = (a_steps * scaled + half) / deviation
    b_factor = (b_steps * scaled + half) / deviation
    mean = (a_sum * a_factor + b_sum * b_factor) / length

    rows = op.Shape(sums)
    a_part = wide_a * op.Reshape(op.Cast(a_factor, to=INT32), rows)
    b_part = wide_b * op.Reshape(op.Cast(b_factor, to=INT32), rows)
    t = a_part + b_part - op.Reshape(op.Cast(mean, to=INT32), rows)
    return NormalizeCodes(t, op.Constant(value=f32(UNIT)), gamma, beta, y_scale, y_zero_point)


def add_layer_norm(
    a: Array,
    a_scale: Array,
    b: Array,
    b_scale: Array,
    gamma: Array,
    beta: Array,
    epsilon: Array,
    y_scale: Array,
    y_zero_point: Array,
) -> Array:
    """`IntegerAddLayerNorm` in numpy.

    Args:
        a: uint8 or int8 [..., N].
        a_scale: float32, a scalar or [..., 1].
        b: Codes of the type and shape of ``a``.
        b_scale: float32, a scalar or [..., 1].
        gamma: float32 [N].
        beta: float32 [N].
        epsilon: float32 scalar.
        y_scale: float32 scalar.
        y_zero_point: uint8 scalar.
    """
    length = a.shape[-1]
    a_steps, b_steps, floor = row_steps(length, a_scale, b_scale, epsilon)
    least = np.maximum(a_steps, b_steps) * length // 2**7 + 1

    wide_a, wide_b = a.astype(np.int32), b.astype(np.int32)
    long_a, long_b = (codes.astype(np.int64).reshape(-1, length) for codes in (a, b))
    a_sum, b_sum = long_a.sum(-1), long_b.sum(-1)
    aa, ab, bb = ((x * y).sum(-1) for x, y in ((long_a, long_a), (long_a, long_b), (long_b, long_b)))
    squares = aa * (a_steps * a_steps) + ab * (2 * a_steps * b_steps) + bb * (b_steps * b_steps)
    total = a_sum * a_steps + b_sum * b_steps
    power = squares * length - total * total + floor * floor + 1
    deviation = np.maximum(square_root(power) + 1, least)
    a_factor, b_factor = ((steps * (length * 2**14) + deviation // 2) // deviation for steps in (a_steps, b_steps))
    mean = truncated(a_sum * a_factor + b_sum * b_factor, length)

    rows = (*a.shape[:-1], 1)
    a_row, b_row, middle = (row.astype(np.int32).reshape(rows) for row in (a_factor, b_factor, mean))
    return normalize_codes(wide_a * a_row + wide_b * b_row - middle, UNIT, gamma, beta, y_scale, y_zero_point)


def row_steps(length: int, a_scale: Array, b_scale: Array, epsilon: Array) -> tuple[Array, Array, Array]:
    """A0, B0 and N sqrt(epsilon) in units u, int64 [rows] or [1]."""
    f = np.float32
    fixed = np.rint(epsilon * f(2.0**60)).astype(np.int64).reshape(1)
    root = square_root(fixed + 1).astype(f) * f(2.0**-30)
    finest = np.minimum(np.floor(f(2.0**22) / f(length)), f(2.0**14))
    unit = np.maximum(np.maximum(a_scale, b_scale).reshape(-1), root * f(2.0**-8)) / finest
    a_steps, b_steps = (np.rint(scale.reshape(-1) / unit).astype(np.int64) for scale in (a_scale, b_scale))
    return a_steps, b_steps, np.rint(root / unit * f(length)).astype(np.int64)


def exact_add_layer_norm(a: Array, b: Array, gamma: Array, beta: Array, epsilon: float) -> Array:
    """LayerNormalization of a + b, float64."""
    return exact_layer_norm(np.asarray(a, np.float64) + np.asarray(b, np.float64), gamma, beta, epsilon)


def add_layer_norm_bound(
    a: Array, a_scale: Array, b: Array, b_scale: Array, gamma: Array, beta: Array, epsilon: Array, y_scale: Array
) -> Array:
    """Greatest error of `IntegerAddLayerNorm`, in real units, [..., N]; the inputs are those of the kernel."""
    a, b = (codes - codes.mean(-1, keepdims=True, dtype=np.float64) for codes in (a, b))
    x = a * np.float64(a_scale) + b * np.float64(b_scale)
    sigma = np.sqrt((x * x).mean(-1, keepdims=True) + np.float64(epsilon))
    finest = np.minimum(2**22 // a.shape[-1], 2**14)
    unit = np.maximum(np.maximum(a_scale, b_scale), np.sqrt(np.float64(epsilon)) / 2**8) / finest
    spread = (a.std(-1, keepdims=True) + b.std(-1, keepdims=True)) / 2
    xhat = np.abs(x) / sigma
    rounded = (np.abs(a) + np.abs(b)) * (2.0**-15 + unit / sigma / 2) + xhat * (spread * unit / sigma + 2.0**-11)
    steps = 2 * gamma_steps(UNIT, gamma, beta, y_scale)
    found: Array = y_scale * (0.51 + xhat / steps) + np.abs(gamma) * (rounded + 2.0**-13)
    return found


KERNELS = (
    Kernel(
        IntegerAddLayerNorm,
        add_layer_norm,
        exact_add_layer_norm,
        add_layer_norm_bound,
        codes=("a", "b"),
        types=dict.fromkeys(("gamma", "beta", "epsilon"), ir.DataType.FLOAT),
    ),
)
