"""What the integer normalizations share: the factors of a row before, the affine part after the division by its root.

`NormalizeFactors`: from V, the sum of squared deviations of a row of N integers, taken from their mean cut to an
integer, and from N times what was cut off, f, two integers m and s per row with

    m / s = 2^11 / sqrt(var + epsilon / x_scale^2),    var = (N V - f^2) / N^2

so that (x - mean) m / s is the normalized row in steps of 2^-11. The root R is taken of 2^12 N^2 var: even one code
that differs from all others gives it 10 bits. Everything stays in 62 bits because V is first divided by the square of
r = 1 + V / 2^38 (r = 1 for all but huge values), and R is multiplied by r again; a huge epsilon enlarges r likewise.
m is as large as |x - mean| m < 2^30 permits, known without a pass over the row: |x - mean| <= sqrt(N var).

`NormalizeCodes`: y = t gamma + beta as codes, t in steps of 1/unit. gamma and beta become multiples of y_scale in steps
of 1/K and 1/(K unit), K the largest integer that keeps int32 for every row (|t| <= sqrt(N) unit holds for every
normalized row). A single division by K unit ends it.
"""

from __future__ import annotations

import numpy as np
from onnxscript import script

from bct_onnx.integer.kernel import BCT, INT32, UINT8, Array, Tensor, f32, i32, op
from bct_onnx.integer.square_root import FLOAT, INT64, IntegerSquareRoot, i64, square_root

UNIT = 2.0**11
"""Steps of a normalized row per standard deviation."""
ROOM = 2e9  # of 2^31: the margin covers the rounding of the factors of a row


@script(BCT, default_opset=op)
def NormalizeFactors(
    squares: Tensor, cut: Tensor, length: Tensor, x_scale: Tensor, epsilon: Tensor
) -> tuple[Tensor, Tensor]:
    """Integers m, s per row, from [rows] values (in one dimension: ONNX Runtime broadcasts to [..., 1] 10 times as
    slowly): m / s = 2^11 / sqrt(var + epsilon / x_scale^2), var = (N squares - cut^2) / N^2, N the
    length; |x - mean| m < 2^30 for |x| < 2^24.
    """
    one = op.Constant(value=i64(1))
    count = op.Cast(length, to=FLOAT)
    fixed = op.Cast(op.Round(epsilon * op.Constant(value=f32([2.0**60]))), to=INT64)
    root = op.Cast(IntegerSquareRoot(fixed + one), to=FLOAT)
    wanted = (root * op.Constant(value=f32(2.0**-24)) * count) / op.Reshape(x_scale, op.Constant(value=i64([-1])))
    floor = op.Cast(op.Floor(op.Min(wanted, op.Constant(value=f32(2.0**54)))), to=INT64)
    least = floor / op.Constant(value=i64(2**29)) + one

    reduced = squares / op.Constant(value=i64(2**38)) + least
    twice = reduced * reduced
    spread = length * (squares / twice) - (cut * cut) / twice
    part = floor / reduced
    power = op.Max(spread * op.Constant(value=i64(2**12)) + part * part, one)
    deviation = (IntegerSquareRoot(power) + one) * reduced
    most = IntegerSquareRoot(length) * op.Constant(value=i64(2**35))
    m = op.Min(op.Max(most / deviation, op.Constant(value=i64(32))), op.Constant(value=i64(2**29)))
    half = length * op.Constant(value=i64(2**16))
    s = (m * deviation + half) / (length * op.Constant(value=i64(2**17)))
    return m, op.Min(op.Max(s, one), op.Constant(value=i64(2**31 - 1)))


@script(BCT, default_opset=op)
def NormalizeCodes(
    t: Tensor, unit: Tensor, gamma: Tensor, beta: Tensor, y_scale: Tensor, y_zero_point: Tensor
) -> Tensor:
    """Codes of gamma t / unit + beta, for int32 t with |t| <= unit sqrt(N): one multiplication, one addition and one
    division by a number that is the largest with sums in int32.
    """
    root = op.Cast(IntegerSquareRoot(op.Shape(gamma)) + op.Constant(value=i64(1)), to=FLOAT)
    slope = gamma / y_scale
    shift = beta / y_scale
    steepest = op.ReduceMax(op.Abs(slope), keepdims=0)
    furthest = op.ReduceMax(op.Abs(shift), keepdims=0)
    greatest = root * steepest + furthest + op.Constant(value=f32(512.0))
    fit = op.Floor(op.Constant(value=f32(ROOM)) / unit / greatest)
    steps = op.Min(op.Max(fit, op.Constant(value=f32(1.0))), op.Constant(value=f32(4096.0)))
    divisor = op.Cast(steps * unit, to=INT32)
    zero = op.Cast(y_zero_point, to=INT32) * divisor + divisor / op.Constant(value=i32(2))
    factor = op.Cast(op.Round(slope * steps), to=INT32)
    offset = op.Cast(op.Round(shift * (steps * unit)), to=INT32) + zero
    top = divisor * op.Constant(value=i32(256)) - op.Constant(value=i32(1))
    return op.Cast(op.Min(op.Relu(t * factor + offset), top) / divisor, to=UINT8)


def normalize_factors(squares: Array, cut: Array, length: int, x_scale: Array, epsilon: Array) -> tuple[Array, Array]:
    """`NormalizeFactors` in numpy."""
    f = np.float32
    fixed = np.rint(epsilon * f(2.0**60)).astype(np.int64)
    root = square_root(fixed.reshape(1) + 1).astype(f)
    wanted = (root * f(2.0**-24) * f(length)) / x_scale.reshape(-1)
    floor = np.floor(np.minimum(wanted, f(2.0**54))).astype(np.int64)

    reduced = squares // 2**38 + (floor // 2**29 + 1)
    twice = reduced * reduced
    spread = length * (squares // twice) - (cut * cut) // twice
    part = floor // reduced
    deviation = (square_root(np.maximum(spread * 2**12 + part * part, 1)) + 1) * reduced
    most = square_root(np.array([length])) * 2**35
    m = np.clip(most // deviation, 32, 2**29)
    s = (m * deviation + length * 2**16) // (length * 2**17)
    return m, np.clip(s, 1, 2**31 - 1)


def normalize_codes(t: Array, unit: float, gamma: Array, beta: Array, y_scale: Array, y_zero_point: Array) -> Array:
    """`NormalizeCodes` in numpy."""
    f = np.float32
    slope, shift = gamma / y_scale, beta / y_scale
    steps = gamma_steps(unit, gamma, beta, y_scale)
    divisor = (steps * f(unit)).astype(np.int32)
    zero = y_zero_point.astype(np.int32) * divisor + divisor // np.int32(2)
    factor = np.rint(slope * steps).astype(np.int32)
    offset = np.rint(shift * (steps * f(unit))).astype(np.int32) + zero
    found: Array = np.clip(t * factor + offset, 0, divisor * np.int32(256) - 1) // divisor
    return found.astype(np.uint8)


def normalize_bound(y: Array, gamma: Array, beta: Array, y_scale: Array) -> Array:
    """Greatest error of `IntegerLayerNorm` and `IntegerRMSNorm` where the exact result is ``y``, in real units."""
    steepness, rise = np.abs(np.float64(gamma)), np.abs(np.float64(y) - beta)  # rise = |gamma xhat|
    xhat = np.divide(rise, steepness, out=np.zeros_like(rise), where=steepness > 0)
    found: Array = (
        0.51 * y_scale + 2.0**-10 * (steepness + rise) + xhat * y_scale / (2 * gamma_steps(UNIT, gamma, beta, y_scale))
    )
    return found


def gamma_steps(unit: float, gamma: Array, beta: Array, y_scale: Array) -> Array:
    """K: gamma is rounded to multiples of y_scale / K."""
    f = np.float32
    root = square_root(np.array(gamma.shape)).astype(f)[0] + f(1)
    steepest, furthest = np.abs(gamma / y_scale).max(), np.abs(beta / y_scale).max()
    fit = np.floor(f(ROOM) / f(unit) / (root * steepest + furthest + f(512)))
    found: Array = np.minimum(np.maximum(fit, f(1)), f(4096))
    return found


def truncated(dividend: Array, divisor: Array | int) -> Array:
    """Integer division towards zero, as Div of ONNX divides (numpy rounds down); divisors are positive."""
    found: Array = np.sign(dividend) * (np.abs(dividend) // divisor)
    return found
