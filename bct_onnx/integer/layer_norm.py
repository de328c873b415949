"""LayerNormalization over the last axis from integers to codes, with integer statistics, after I-BERT.

    y = gamma (x - mean) / sqrt(var + epsilon) + beta

It does not depend on a zero point, and on the scale of a row only through epsilon: x is any int32 with |x| < 2^24 (of
`IntegerAdd`) or 8-bit codes. The sums of x and of x^2 are taken in int64 by MatMul with ones and with itself, which in
ONNX Runtime is cheaper than ReduceSum and exact, so the deviation needs no shift. I-BERT (Kim et al. 2021, arXiv
2101.01321) takes the square root by Newton's iteration; so does `IntegerSquareRoot`. With m, s of `NormalizeFactors`:

    t = floor0((x - mean) m / s)  in steps of 2^-11,   y = zero point + round((t G + B) / (K 2^11))
    G = round(K gamma / y_scale),   B = round(K 2^11 beta / y_scale),   K of `NormalizeCodes`

The mean is subtracted in two parts, cut to an integer and the rest times m, because a half step would matter to 8-bit
codes. floor0 is Div as ONNX defines it, towards zero. 13 passes over the tensor.

Error, in real units, xhat the normalized value: 0.51 y_scale + |gamma| (2^-10 + 2^-10 |xhat|) + |xhat| y_scale / (2 K).
Valid: hidden sizes to 4096; |x| < 2^24; scales > 0; 2^-60 <= epsilon <= 1; gamma and beta float32 [N] with
sqrt(N) max|gamma| + max|beta| <= 900000 y_scale.
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
def IntegerLayerNorm(
    x: Tensor, x_scale: Tensor, gamma: Tensor, beta: Tensor, epsilon: Tensor, y_scale: Tensor, y_zero_point: Tensor
) -> Tensor:
    """LayerNormalization over the last axis of integers |x| < 2^24 to codes; integer variance and square root after
    I-BERT. Error at most 0.51 y_scale + 0.001 |gamma| (1 + |xhat|) + |xhat| y_scale / (2 K).
    """
    one = op.Constant(value=i64([1]))
    last = op.Constant(value=i64([-1]))
    length = op.Shape(gamma)
    ones = op.Expand(one, op.Concat(length, one, axis=0))

    q = op.Cast(x, to=INT32)
    wide = op.Cast(x, to=INT64)
    sums = op.MatMul(wide, ones)
    products = op.MatMul(op.Unsqueeze(wide, op.Constant(value=i64([-2]))), op.Unsqueeze(wide, last))
    rows = op.Shape(sums)

    total = op.Reshape(sums, last)
    mean = total / length
    cut = total - mean * length
    squares = op.Reshape(products, last) - mean * (total + cut)
    m, s = NormalizeFactors(squares, cut, length, x_scale, epsilon)
    rest = op.Reshape(op.Cast((cut * m) / length, to=INT32), rows)
    factor = op.Reshape(op.Cast(m, to=INT32), rows)
    divisor = op.Reshape(op.Cast(s, to=INT32), rows)

    centred = q - op.Reshape(op.Cast(mean, to=INT32), rows)
    t = (centred * factor - rest) / divisor
    return NormalizeCodes(t, op.Constant(value=f32(UNIT)), gamma, beta, y_scale, y_zero_point)


def layer_norm(
    x: Array, x_scale: Array, gamma: Array, beta: Array, epsilon: Array, y_scale: Array, y_zero_point: Array
) -> Array:
    """`IntegerLayerNorm` in numpy.

    Args:
        x: uint8, int8 or int32 [..., N].
        x_scale: float32, a scalar or [..., 1]: the real value of one step of ``x``.
        gamma: float32 [N].
        beta: float32 [N].
        epsilon: float32 scalar.
        y_scale: float32 scalar.
        y_zero_point: uint8 scalar.
    """
    length = x.shape[-1]
    wide = x.astype(np.int64)
    sums = wide.sum(-1, keepdims=True)
    total = sums.reshape(-1)
    mean = truncated(total, length)
    cut = total - mean * length
    squares = (wide * wide).sum(-1).reshape(-1) - mean * (total + cut)
    m, s = normalize_factors(squares, cut, length, x_scale, epsilon)
    rest, factor, divisor, middle = (
        row.astype(np.int32).reshape(sums.shape) for row in (truncated(cut * m, length), m, s, mean)
    )
    t = truncated((x.astype(np.int32) - middle) * factor - rest, divisor)
    return normalize_codes(t, UNIT, gamma, beta, y_scale, y_zero_point)


def exact_layer_norm(x: Array, gamma: Array, beta: Array, epsilon: float) -> Array:
    """gamma (x - mean) / sqrt(var + epsilon) + beta over the last axis, float64."""
    x = np.asarray(x, np.float64)
    y: Array = gamma * (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) + beta
    return y


_FLOATS = dict.fromkeys(("gamma", "beta", "epsilon"), ir.DataType.FLOAT)

KERNELS = (Kernel(IntegerLayerNorm, layer_norm, exact_layer_norm, normalize_bound, types=_FLOATS),)
