"""Sigmoid, tanh and x sigmoid(x) from codes to codes, by the integer exponential of I-BERT (`exp`).

With q = code - zero point, e = exp(-|x|) as an integer and ``one`` the same for 0:

    sigmoid(x) = n / (one + e),    n = one for x >= 0, else e
    tanh(x) = 2 sigmoid(2 x) - 1
    x sigmoid(b x) = relu(x) - |x| e / (one + e),    e = exp(-b |x|)

n needs no select: it is max(e, min(q one, one)). One division scales to output steps (h = 1 / s_y of them per 1,
J = floor(2^14 / h), T = round(J h)): y = zero point + round(n T / ((one + e) J)); for tanh, whole steps `lift` keep the
numerator from being negative. The product takes a second division, as in `gelu`.

Errors in real units; each has half a step of the output, 0.5 s_y, and the exponential's 0.002 in it:

- IntegerSigmoid 0.001 + 0.5 s_y; 29 passes of full size, 13 of them in the exponential.
- IntegerTanh 0.002 + 0.5 s_y; 29 passes.
- IntegerSilu 0.0012 + 0.5 s_y + 0.028 s_x (e and e / (one + e) rounded down, the divisor rounded); 29 passes.

Valid for y scales from 2^-14 on (sigmoid, tanh), from 1/1024 of the x scale on (products). x scales below 0.000146
(tanh: half of it; all |x| < 0.038) are too fine for the exponential and count as that: 0.01 (tanh 0.02) instead of
0.001.
"""

from __future__ import annotations

import math

import numpy as np
from onnxscript import script

from bct_onnx.integer.exp import LEAST_SCALE, ExpOfMagnitude, exp_of_magnitude
from bct_onnx.integer.kernel import BCT, FLOAT, INT32, UINT8, Array, Kernel, Tensor, Valid, f32, i32, op

SHIFT_RATIO, SHIFT_PRODUCT = 12, 11
"""Bits that the exponential drops: "one" is then below 2^15 and 2^16."""
NUMERATOR = 2.0**14
GREATEST_J = 2.0**12
LEAST_STEP = 2.0**-14
"""Of a sigmoid's or tanh's result."""
FRACTION = 2**15
"""Steps per 1 of e / (one + e) in a product."""
DEPTH = 0.28
"""More than the greatest |x| sigmoid(-|x|), 0.2785, and its error."""
LEAST_STEEP = 0.002
"""Below it |x| sigmoid(-|x|) is at most 127.5 steps of x, less than DEPTH / LEAST_STEEP."""
LEAST_RATIO, GREATEST_RATIO = 1 / 1024, 512.0


@script(BCT, default_opset=op)
def SigmoidSteps(
    x: Tensor, x_scale: Tensor, x_zero_point: Tensor, height: Tensor, bottom: Tensor, y_zero_point: Tensor
) -> Tensor:
    """Codes of bottom + height sigmoid(x_scale (x - x_zero_point)); bottom <= 0 and height >= 0 in steps of y."""
    wanted = op.Floor(op.Div(op.Constant(value=f32(NUMERATOR)), height))
    greatest_j = op.Constant(value=f32(GREATEST_J))
    j = op.Min(op.Max(wanted, op.Constant(value=f32(1))), greatest_j)
    rise = op.Cast(op.Round(op.Mul(j, height)), to=INT32)
    lift = op.Ceil(op.Neg(bottom))
    above = op.Add(op.Add(lift, bottom), op.Constant(value=f32(0.5)))
    base = op.Cast(op.Round(op.Mul(j, above)), to=INT32)
    landing = op.Sub(op.Cast(y_zero_point, to=INT32), op.Cast(lift, to=INT32))

    q = op.Sub(op.Cast(x, to=INT32), op.Cast(x_zero_point, to=INT32))
    e, one = ExpOfMagnitude(op.Abs(q), x_scale, op.Constant(value=i32(SHIFT_RATIO)))
    share = op.Max(op.Min(op.Mul(q, one), one), e)
    whole = op.Add(e, one)
    numerator = op.Add(op.Mul(share, rise), op.Mul(whole, base))
    divisor = op.Mul(whole, op.Cast(j, to=INT32))
    code = op.Relu(op.Add(op.Div(numerator, divisor), landing))
    return op.Cast(op.Min(code, op.Constant(value=i32(255))), to=UINT8)


@script(BCT, default_opset=op)
def IntegerSigmoid(x: Tensor, x_scale: Tensor, x_zero_point: Tensor, y_scale: Tensor, y_zero_point: Tensor) -> Tensor:
    """Sigmoid of codes in integers: 1 / (1 + e) or e / (1 + e), e = exp(-|x|) by I-BERT.

    Error at most 0.001 + 0.5 y_scale.
    """
    height = op.Div(op.Constant(value=f32(1)), y_scale)
    return SigmoidSteps(x, x_scale, x_zero_point, height, op.Constant(value=f32(0)), y_zero_point)


@script(BCT, default_opset=op)
def IntegerTanh(x: Tensor, x_scale: Tensor, x_zero_point: Tensor, y_scale: Tensor, y_zero_point: Tensor) -> Tensor:
    """Tanh of codes in integers: 2 sigmoid(2 x) - 1, exp by I-BERT.

    Error at most 0.002 + 0.5 y_scale.
    """
    two = op.Constant(value=f32(2))
    height = op.Div(two, y_scale)
    bottom = op.Div(op.Constant(value=f32(-1)), y_scale)
    return SigmoidSteps(x, op.Mul(x_scale, two), x_zero_point, height, bottom, y_zero_point)


@script(BCT, default_opset=op)
def SigmoidProduct(
    x: Tensor, x_scale: Tensor, x_zero_point: Tensor, slope: Tensor, y_scale: Tensor, y_zero_point: Tensor
) -> Tensor:
    """Codes of x sigmoid(slope x) = relu(x) - |x| e / (1 + e), e = exp(-slope |x|) by I-BERT."""
    steep = op.Mul(x_scale, slope)
    positive_scale = op.Max(x_scale, op.Constant(value=f32(1e-30)))
    least_ratio = op.Constant(value=f32(LEAST_RATIO))
    greatest_ratio = op.Constant(value=f32(GREATEST_RATIO))
    ratio = op.Min(op.Max(op.Div(y_scale, positive_scale), least_ratio), greatest_ratio)
    fraction = op.Constant(value=i32(FRACTION))
    divisor = op.Cast(op.Round(op.Mul(op.Cast(fraction, to=FLOAT), ratio)), to=INT32)
    least_steep = op.Constant(value=f32(LEAST_STEEP))
    depth = op.Div(op.Constant(value=f32(DEPTH)), op.Max(steep, least_steep))
    lift = op.Cast(op.Ceil(op.Div(depth, ratio)), to=INT32)
    half = op.Div(divisor, op.Constant(value=i32(2)))
    offset = op.Add(op.Mul(divisor, lift), half)
    landing = op.Sub(op.Cast(y_zero_point, to=INT32), lift)

    q = op.Sub(op.Cast(x, to=INT32), op.Cast(x_zero_point, to=INT32))
    magnitude = op.Abs(q)
    e, one = ExpOfMagnitude(magnitude, steep, op.Constant(value=i32(SHIFT_PRODUCT)))
    share = op.Div(op.Mul(e, fraction), op.Add(e, one))
    value = op.Sub(op.Mul(op.Relu(q), fraction), op.Mul(magnitude, share))
    rounded = op.Div(op.Add(value, offset), divisor)
    code = op.Relu(op.Add(rounded, landing))
    return op.Cast(op.Min(code, op.Constant(value=i32(255))), to=UINT8)


@script(BCT, default_opset=op)
def IntegerSilu(x: Tensor, x_scale: Tensor, x_zero_point: Tensor, y_scale: Tensor, y_zero_point: Tensor) -> Tensor:
    """SiLU (Swish) of codes in integers: x sigmoid(x) = relu(x) - |x| e / (1 + e), e = exp(-|x|) by I-BERT.

    Error at most 0.0012 + 0.5 y_scale + 0.028 x_scale.
    """
    return SigmoidProduct(x, x_scale, x_zero_point, op.Constant(value=f32(1)), y_scale, y_zero_point)


def sigmoid_steps(
    x: Array, x_scale: Array, x_zero_point: Array, height: Array, bottom: Array | np.float32, y_zero_point: Array
) -> Array:
    """`SigmoidSteps` in numpy: codes as in `sigmoid`; ``height`` and ``bottom`` are float32, scalars or [..., 1]."""
    f = np.float32
    j = np.minimum(np.maximum(np.floor(f(NUMERATOR) / height), f(1)), f(GREATEST_J))
    rise = np.rint(j * height).astype(np.int32)
    lift = np.ceil(-bottom)
    base = np.rint(j * (lift + bottom + f(0.5))).astype(np.int32)

    q = x.astype(np.int32) - x_zero_point.astype(np.int32)
    e, one = exp_of_magnitude(np.abs(q), x_scale, SHIFT_RATIO)
    share = np.maximum(np.minimum(q * one, one), e)
    rounded = (share * rise + (e + one) * base) // ((e + one) * j.astype(np.int32))
    codes: Array = np.clip(rounded + (y_zero_point.astype(np.int32) - lift.astype(np.int32)), 0, 255).astype(np.uint8)
    return codes


def sigmoid(x: Array, x_scale: Array, x_zero_point: Array, y_scale: Array, y_zero_point: Array) -> Array:
    """`IntegerSigmoid` in numpy.

    Args:
        x: uint8 or int8 codes, any shape.
        x_scale: float32, a scalar or [..., 1].
        x_zero_point: Scalar of the type of ``x``.
        y_scale: float32, a scalar or [..., 1].
        y_zero_point: uint8 scalar.
    """
    return sigmoid_steps(x, x_scale, x_zero_point, np.float32(1) / y_scale, np.float32(0), y_zero_point)


def tanh(x: Array, x_scale: Array, x_zero_point: Array, y_scale: Array, y_zero_point: Array) -> Array:
    """`IntegerTanh` in numpy; arguments as `sigmoid`."""
    two, below = np.float32(2), np.float32(-1)
    return sigmoid_steps(x, x_scale * two, x_zero_point, two / y_scale, below / y_scale, y_zero_point)


def sigmoid_product(
    x: Array, x_scale: Array, x_zero_point: Array, slope: float, y_scale: Array, y_zero_point: Array
) -> Array:
    """`SigmoidProduct` in numpy; arguments as `sigmoid`."""
    f = np.float32
    steep = x_scale * f(slope)
    ratio = y_scale / np.maximum(x_scale, f(1e-30))
    ratio = np.minimum(np.maximum(ratio, f(LEAST_RATIO)), f(GREATEST_RATIO))
    divisor = np.rint(f(FRACTION) * ratio).astype(np.int32)
    lift = np.ceil(f(DEPTH) / np.maximum(steep, f(LEAST_STEEP)) / ratio).astype(np.int32)

    q = x.astype(np.int32) - x_zero_point.astype(np.int32)
    magnitude = np.abs(q)
    e, one = exp_of_magnitude(magnitude, steep, SHIFT_PRODUCT)
    share = e * np.int32(FRACTION) // (e + one)
    value = np.maximum(q, 0) * np.int32(FRACTION) - magnitude * share
    rounded = (value + (divisor * lift + divisor // 2)) // divisor
    codes: Array = np.clip(rounded + (y_zero_point.astype(np.int32) - lift), 0, 255).astype(np.uint8)
    return codes


def silu(x: Array, x_scale: Array, x_zero_point: Array, y_scale: Array, y_zero_point: Array) -> Array:
    """`IntegerSilu` in numpy; arguments as `sigmoid`."""
    return sigmoid_product(x, x_scale, x_zero_point, 1.0, y_scale, y_zero_point)


def exact_sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), float64, without overflow."""
    e = np.exp(-np.abs(x))
    y: Array = np.where(np.asarray(x) >= 0, 1.0, e) / (1 + e)
    return y


def exact_silu(x: Array) -> Array:
    """x / (1 + exp(-x)), float64."""
    return x * exact_sigmoid(x)


def sigmoid_bound(x_scale: Array, y_scale: Array) -> Array:
    """Greatest error of `IntegerSigmoid`, in real units."""
    bound: Array = np.where(x_scale < LEAST_SCALE, 0.01, 0.001) + 0.5 * y_scale
    return bound


def tanh_bound(x_scale: Array, y_scale: Array) -> Array:
    """Greatest error of `IntegerTanh`, in real units: tanh(x) = 2 sigmoid(2 x) - 1."""
    return 2 * sigmoid_bound(2 * x_scale, y_scale / 2)


def silu_bound(x_scale: Array, y_scale: Array) -> Array:
    """Greatest error of `IntegerSilu`, in real units."""
    return 0.0012 + 0.5 * y_scale + 0.028 * x_scale


KERNELS = (
    Kernel(IntegerSigmoid, sigmoid, exact_sigmoid, sigmoid_bound, valid=Valid(y_scale=(LEAST_STEP, math.inf))),
    Kernel(IntegerTanh, tanh, np.tanh, tanh_bound, valid=Valid(y_scale=(LEAST_STEP, math.inf))),
    Kernel(IntegerSilu, silu, exact_silu, silu_bound, valid=Valid(ratio=(LEAST_RATIO, math.inf))),
)
