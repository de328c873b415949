"""What the integer normalizations share: the factors of a row before, the affine part after the division by its root.

`NormalizeFactors`: from V, the sum of squared deviations of a row of N integers, taken from their mean cut to an
integer, and from N times what was cut off, f, two integers m and s per row with

    m / s = 2^11 / sqrt(var + epsilon / x_scale^2),    var = (N V - f^2) / N^2

so that (x - mean) m / s is the normalized row in steps of 2^-11. The root R is taken of (h N)^2 var, h = 2^12 / sqrt(N)
(cut to integers): even one code that differs from all others by one gives it 12 bits. Everything stays in 62 bits
because V is first divided by the square of r = 1 + floor(V / 2^36) (1 for all but huge values), which leaves at most
2^36, and R is multiplied by r again; a huge epsilon enlarges r likewise. m is as large as |x - mean| m < 2^30 permits,
known without a pass over the row: |x - mean| <= sqrt(N var). Max, Min and Clip of ONNX Runtime (to 1.31 at least)
confuse int64 values from 2^31 on that have equal upper halves: here they only see smaller ones.

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
    """Integers m, s per row, from values per row in one dimension (ONNX Runtime is slow where both last axes are 1):
    m / s = 2^11 / sqrt(var + epsilon / x_scale^2), var = (N squares - cut^2) / N^2, N the length; |x - mean| m < 2^30
    for |x| < 2^24.
    """
    last = op.Constant(value=i64([-1]))
    one = op.Constant(value=i64(1))
    greatest = op.Constant(value=f32(2.0**36))
    wide = op.Constant(value=i64(2**29))
    span = op.Cast(op.Floor(op.Sqrt(op.Cast(length, to=FLOAT))), to=INT64)
    fine = op.Constant(value=i64(2**12)) / span
    fine_length = fine * length
    ratio = op.Sqrt(epsilon) / op.Reshape(x_scale, last)
    floor = op.Cast(op.Floor(op.Min(ratio, greatest) * op.Cast(fine_length, to=FLOAT)), to=INT64)
    least = floor / wide + one

    reduced = squares / op.Constant(value=i64(2**36)) + least
    twice = reduced * reduced
    spread = length * (squares / twice) - (cut * cut) / twice
    part = floor / reduced
    power = spread * (fine * fine) + part * part + one
    deviation = (IntegerSquareRoot(power) + one) * reduced
    steepest = span * fine
    m = op.Max(steepest * wide / (deviation + steepest), op.Constant(value=i64(32)))
    half = fine_length * op.Constant(value=i64(2**10))
    s = (m * deviation + half) / (fine_length * op.Constant(value=i64(2**11)))
    return m, s


@script(BCT, default_opset=op)
def NormalizeCodes(
    t: Tensor, unit: Tensor, gamma: Tensor, beta: Tensor, y_scale: Tensor, y_zero_point: Tensor
) -> Tensor:
    """Codes of gamma t / unit + beta, for int32 t with |t| <= unit sqrt(N): one multiplication, one addition and one
    division by a number that is the largest with sums in int32.
    """
    root = op.Floor(op.Sqrt(op.Cast(op.Shape(gamma), to=FLOAT))) + op.Constant(value=f32(1))
    slope = gamma / y_scale
    shift = beta / y_scale
    steepest = op.ReduceMax(op.Abs(slope), keepdims=0)
    furthest = op.ReduceMax(op.Abs(shift), keepdims=0)
    greatest = root * steepest + furthest + op.Constant(value=f32(512.0))
    fit = op.Floor(op.Constant(value=f32(ROOM)) / unit / greatest)
    steps = op.Max(fit, op.Constant(value=f32(1.0)))
    divisor = op.Cast(steps * unit, to=INT32)
    zero = op.Cast(y_zero_point, to=INT32) * divisor + divisor / op.Constant(value=i32(2))
    factor = op.Cast(op.Round(slope * steps), to=INT32)
    offset = op.Cast(op.Round(shift * (steps * unit)), to=INT32) + zero
    top = divisor * op.Constant(value=i32(256)) - op.Constant(value=i32(1))
    return op.Cast(op.Min(op.Relu(t * factor + offset), top) / divisor, to=UINT8)


def normalize_factors(squares: Array, cut: Array, length: int, x_scale: Array, epsilon: Array) -> tuple[Array, Array]:
    """`NormalizeFactors` in numpy."""
    f = np.float32
    span = np.floor(np.sqrt(np.array([length], f))).astype(np.int64)
    fine = 2**12 // span
    ratio = np.sqrt(epsilon) / x_scale.reshape(-1)
    floor = np.floor(np.minimum(ratio, f(2.0**36)) * (fine * length).astype(f)).astype(np.int64)

    reduced = squares // 2**36 + (floor // 2**29 + 1)
    twice = reduced * reduced
    spread = length * (squares // twice) - (cut * cut) // twice
    part = floor // reduced
    deviation = (square_root(spread * (fine * fine) + part * part + 1) + 1) * reduced
    m = np.maximum(span * fine * 2**29 // (deviation + span * fine), 32)
    s = (m * deviation + fine * length * 2**10) // (fine * length * 2**11)
    return m, s


def normalize_codes(t: Array, unit: float, gamma: Array, beta: Array, y_scale: Array, y_zero_point: Array) -> Array:
    """`NormalizeCodes` in numpy."""
    f = np.float32
    slope, shift = gamma / y_scale, beta / y_scale
    steps = gamma_steps(unit, gamma, beta, y_scale)
    divisor = (steps * f(unit)).astype(np.int32)
    zero = y_zero_point.astype(np.int32) * divisor + divisor // np.int32(2)
    factor = np.rint(slope * steps).astype(np.int32)
    offset = np.rint(shift * (steps * f(unit))).astype(np.int32) + zero
    codes: Array = np.clip(t * factor + offset, 0, divisor * np.int32(256) - 1) // divisor
    return codes.astype(np.uint8)


def normalize_bound(y: Array, gamma: Array, beta: Array, y_scale: Array) -> Array:
    """Greatest error of `IntegerLayerNorm` and `IntegerRMSNorm` where the exact result is ``y``, in real units."""
    steepness, rise = np.abs(np.float64(gamma)), np.abs(np.float64(y) - beta)  # rise = |gamma xhat|
    xhat = np.divide(rise, steepness, out=np.zeros_like(rise), where=steepness > 0)
    bound: Array = (
        0.51 * y_scale + 2.0**-10 * (steepness + rise) + xhat * y_scale / (2 * gamma_steps(UNIT, gamma, beta, y_scale))
    )
    return bound


def gamma_steps(unit: float, gamma: Array, beta: Array, y_scale: Array) -> Array:
    """K: gamma is rounded to multiples of y_scale / K."""
    f = np.float32
    root = np.floor(np.sqrt(f(len(gamma)))) + f(1)
    steepest, furthest = np.abs(gamma / y_scale).max(), np.abs(beta / y_scale).max()
    fit = np.floor(f(ROOM) / f(unit) / (root * steepest + furthest + f(512)))
    steps: Array = np.maximum(fit, f(1))
    return steps


def truncated(dividend: Array, divisor: Array | int) -> Array:
    """Integer division towards zero, as Div of ONNX divides (numpy rounds down); divisors are positive."""
    quotient: Array = np.sign(dividend) * (np.abs(dividend) // divisor)
    return quotient
