"""RMSNormalization over the last axis from integers to codes: `IntegerLayerNorm` without mean and beta.

    y = gamma x / sqrt(mean(x^2) + epsilon)

The zero point counts here: x is 8-bit codes, or any int32 with |x - zero point| < 2^24 (of `IntegerAdd`). The sum of
squares is taken in int64, m and s are those of `NormalizeFactors`, K that of `NormalizeCodes` (see `IntegerLayerNorm`):

    q = x - x zero point,   t = floor0(q m / s)  in steps of 2^-11,   y = zero point + round(t G / (K 2^11))

11 passes over the tensor. Formula: Zhang and Sennrich 2019, arXiv 1910.07467; in integers after I-BERT (Kim et al.
2021, arXiv 2101.01321).

Error, in real units, xhat the normalized value: 0.51 y_scale + |gamma| (2^-10 + 2^-10 |xhat|) + |xhat| y_scale / (2 K).
Valid: hidden sizes to 4096; |q| < 2^24; scales > 0; 2^-60 <= epsilon <= 1; gamma float32 [N] with sqrt(N) max|gamma|
<= 900000 y_scale.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnxscript import script

from bct_onnx.integer.kernel import BCT, INT32, Array, Kernel, Tensor, f32, op
from bct_onnx.integer.normalize import (
    UNIT,
    NormalizeCodes,
    NormalizeFactors,
    normalize_bound,
    normalize_codes,
    normalize_factors,
    truncated,
)
from bct_onnx.integer.square_root import INT64, i64


@script(BCT, default_opset=op)
def IntegerRMSNorm(
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor,
    gamma: Tensor,
    epsilon: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
) -> Tensor:
    """RMSNormalization over the last axis of integers |x - zero point| < 2^24 to codes; integer mean square and root.
    Error at most 0.51 y_scale + 0.001 |gamma| (1 + |xhat|) + |xhat| y_scale / (2 K).
    """
    last = op.Constant(value=i64([-1]))
    length = op.Shape(gamma)
    q = op.Cast(x, to=INT32) - op.Cast(x_zero_point, to=INT32)
    wide = op.Cast(q, to=INT64)
    products = op.MatMul(op.Unsqueeze(wide, op.Constant(value=i64([-2]))), op.Unsqueeze(wide, last))
    column = op.Squeeze(products, last)
    rows = op.Shape(column)
    nothing = op.Constant(value=i64([0]))
    m, s = NormalizeFactors(op.Reshape(column, last), nothing, length, x_scale, epsilon)
    factor = op.Reshape(op.Cast(m, to=INT32), rows)
    divisor = op.Reshape(op.Cast(s, to=INT32), rows)
    t = (q * factor) / divisor
    return NormalizeCodes(t, op.Constant(value=f32(UNIT)), gamma, gamma - gamma, y_scale, y_zero_point)


def rms_norm(
    x: Array,
    x_scale: Array,
    x_zero_point: Array,
    gamma: Array,
    epsilon: Array,
    y_scale: Array,
    y_zero_point: Array,
) -> Array:
    """`IntegerRMSNorm` in numpy.

    Args:
        x: uint8, int8 or int32 [..., N].
        x_scale: float32, a scalar or [..., 1]: the real value of one step of ``x``.
        x_zero_point: Scalar of the type of ``x``.
        gamma: float32 [N].
        epsilon: float32 scalar.
        y_scale: float32 scalar.
        y_zero_point: uint8 scalar.
    """
    q = x.astype(np.int32) - x_zero_point.astype(np.int32)
    squares = (q.astype(np.int64) ** 2).sum(-1, keepdims=True)
    m, s = normalize_factors(squares.reshape(-1), np.zeros(1, np.int64), x.shape[-1], x_scale, epsilon)
    factor, divisor = (row.astype(np.int32).reshape(squares.shape) for row in (m, s))
    t = truncated(q * factor, divisor)
    return normalize_codes(t, UNIT, gamma, np.zeros_like(gamma), y_scale, y_zero_point)


def exact_rms_norm(x: Array, gamma: Array, epsilon: float) -> Array:
    """gamma x / sqrt(mean(x^2) + epsilon) over the last axis, float64."""
    x = np.asarray(x, np.float64)
    y: Array = gamma * x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon)
    return y


def rms_norm_bound(y: Array, gamma: Array, y_scale: Array) -> Array:
    """Greatest error of `IntegerRMSNorm` where the exact result is ``y``, in real units."""
    return normalize_bound(y, gamma, np.zeros_like(gamma), y_scale)


KERNELS = (
    Kernel(
        IntegerRMSNorm,
        rms_norm,
        exact_rms_norm,
        rms_norm_bound,
        types={"gamma": ir.DataType.FLOAT, "epsilon": ir.DataType.FLOAT},
    ),
)
