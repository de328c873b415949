"""GELU from codes to codes: by a second-order polynomial, or by a sigmoid.

`IntegerGelu`, after I-BERT (Kim et al. 2021, arXiv 2101.01321). I-BERT replaces erf by a parabola that ends in a
constant. Written without the sign, by the magnitude of x:

    gelu(x) = relu(x) - |x| Phi(-|x|),    Phi(-|x|) ~ a max(b - |x|, 0)^2

I-BERT fits erf (a = 0.0722, b = 2.5017; error of GELU 0.0182). Here a and b are the minimax fit of GELU itself: error
0.0145, with erf and with tanh inside (these two differ by less than 0.0005). In integers, q = code - zero point:

    k = floor(355 s),  u = k / s,  B = round(b u),  C = round(u^2 / a),  D = round(C s_y / s)
    y = zero point + round((relu(q) C - |q| relu(B - k |q|)^2) / D)

The magnitude in steps of 1/u is k |q|: exact, k is an integer. 355 is the finest unit whose products fit int32. The
sums are made non-negative by Z whole output steps before the division and moved back after it. 17 passes.

Error, in real units: 0.0152 (the polynomial, B rounded) + 0.5 s_y (half a step) + 0.0003 s_x (C, D rounded). An x
scale below 0.00282 (all |x| < 0.72) is too fine for the unit: the polynomial is then read at larger |x|, error 0.05
instead of 0.0152. Valid for x scales to 16384 and for y scales from 1/1024 of the x scale.

`IntegerSigmoidGelu`: x sigmoid(1.702 x) (Hendrycks, Gimpel 2016, arXiv 1606.08415; in integers as ShiftGELU of I-ViT,
arXiv 2207.01405), here with I-BERT's exponential: see `sigmoid`. Error 0.0212 (0.0203 of them in the formula) + 0.5 s_y
+ 0.028 s_x; 29 passes. The polynomial is closer and twice as fast; this one serves models trained with that sigmoid.
"""

from __future__ import annotations

import math

import numpy as np
from onnxscript import script

from bct_onnx.integer.kernel import BCT, INT32, UINT8, Array, Kernel, Tensor, Valid, f32, i32, op
from bct_onnx.integer.sigmoid import SigmoidProduct, sigmoid_product

A, B = 0.06437707, 2.58888825
UNIT = 355.0
LEAST_SCALE = 0.00282
GREATEST_SCALE = 16384.0  # of x: from there on products do not fit int32
LEAST_RATIO, GREATEST_RATIO = 1 / 1024, 512.0  # of y_scale to x_scale; above it every result is less than half a step
SLOPE = 1.702
DEPTH = 0.2  # the polynomial's minimum is -0.18


@script(BCT, default_opset=op)
def IntegerGelu(x: Tensor, x_scale: Tensor, x_zero_point: Tensor, y_scale: Tensor, y_zero_point: Tensor) -> Tensor:
    """GELU of codes in integers, after I-BERT: relu(x) - |x| a max(b - |x|, 0)^2 with a = 0.064377, b = 2.588888.

    Error at most 0.0152 + 0.5 y_scale + 0.0003 x_scale (x_scale from 0.00282 on) against GELU with erf or with tanh.
    """
    scale = op.Max(x_scale, op.Constant(value=f32(LEAST_SCALE)))
    steps = op.Floor(op.Mul(scale, op.Constant(value=f32(UNIT))))
    unit = op.Div(steps, scale)
    end = op.Round(op.Mul(unit, op.Constant(value=f32(B))))
    one = op.Round(op.Mul(op.Mul(unit, unit), op.Constant(value=f32(1 / A))))
    positive_scale = op.Max(x_scale, op.Constant(value=f32(1e-30)))
    least_ratio = op.Constant(value=f32(LEAST_RATIO))
    greatest_ratio = op.Constant(value=f32(GREATEST_RATIO))
    ratio = op.Min(op.Max(op.Div(y_scale, positive_scale), least_ratio), greatest_ratio)
    divisor = op.Cast(op.Round(op.Mul(one, ratio)), to=INT32)
    depth = op.Div(op.Constant(value=f32(DEPTH)), op.Mul(scale, ratio))
    lift = op.Cast(op.Ceil(depth), to=INT32)
    half = op.Div(divisor, op.Constant(value=i32(2)))
    offset = op.Add(op.Mul(divisor, lift), half)
    landing = op.Sub(op.Cast(y_zero_point, to=INT32), lift)

    q = op.Sub(op.Cast(x, to=INT32), op.Cast(x_zero_point, to=INT32))
    magnitude = op.Abs(q)
    distance = op.Relu(op.Sub(op.Cast(end, to=INT32), op.Mul(magnitude, op.Cast(steps, to=INT32))))
    correction = op.Mul(op.Mul(distance, distance), magnitude)
    value = op.Sub(op.Mul(op.Relu(q), op.Cast(one, to=INT32)), correction)
    rounded = op.Div(op.Add(value, offset), divisor)
    code = op.Relu(op.Add(rounded, landing))
    return op.Cast(op.Min(code, op.Constant(value=i32(255))), to=UINT8)


@script(BCT, default_opset=op)
def IntegerSigmoidGelu(
    x: Tensor, x_scale: Tensor, x_zero_point: Tensor, y_scale: Tensor, y_zero_point: Tensor
) -> Tensor:
    """GELU of codes in integers as x sigmoid(1.702 x) = relu(x) - |x| e / (1 + e), e = exp(-1.702 |x|) by I-BERT.

    Error at most 0.0212 + 0.5 y_scale + 0.028 x_scale against GELU with erf or with tanh.
    """
    return SigmoidProduct(x, x_scale, x_zero_point, op.Constant(value=f32(SLOPE)), y_scale, y_zero_point)


def gelu(x: Array, x_scale: Array, x_zero_point: Array, y_scale: Array, y_zero_point: Array) -> Array:
    """`IntegerGelu` in numpy.

    Args:
        x: uint8 or int8 codes, any shape.
        x_scale: float32, a scalar or [..., 1].
        x_zero_point: Scalar of the type of ``x``.
        y_scale: float32, a scalar or [..., 1].
        y_zero_point: uint8 scalar.
    """
    f = np.float32
    scale = np.maximum(x_scale, f(LEAST_SCALE))
    steps = np.floor(scale * f(UNIT))
    unit = steps / scale
    end, one = np.rint(unit * f(B)), np.rint(unit * unit * f(1 / A))
    ratio = y_scale / np.maximum(x_scale, f(1e-30))
    ratio = np.minimum(np.maximum(ratio, f(LEAST_RATIO)), f(GREATEST_RATIO))
    divisor = np.rint(one * ratio).astype(np.int32)
    lift = np.ceil(f(DEPTH) / (scale * ratio)).astype(np.int32)

    q = x.astype(np.int32) - x_zero_point.astype(np.int32)
    magnitude = np.abs(q)
    distance = np.maximum(end.astype(np.int32) - magnitude * steps.astype(np.int32), 0)
    value = np.maximum(q, 0) * one.astype(np.int32) - distance * distance * magnitude
    rounded = (value + (divisor * lift + divisor // 2)) // divisor
    codes: Array = np.clip(rounded + (y_zero_point.astype(np.int32) - lift), 0, 255).astype(np.uint8)
    return codes


def exact_gelu(x: Array) -> Array:
    """x / 2 (1 + erf(x / sqrt 2)), float64."""
    y: Array = np.asarray(x) * (1 + _erf(np.asarray(x) / math.sqrt(2))) / 2
    return y


def gelu_bound(x_scale: Array, y_scale: Array) -> Array:
    """Greatest error of `IntegerGelu`, in real units."""
    bound: Array = np.where(x_scale < LEAST_SCALE, 0.05, 0.0152) + 0.5 * y_scale + 0.0003 * x_scale
    return bound


def sigmoid_gelu(x: Array, x_scale: Array, x_zero_point: Array, y_scale: Array, y_zero_point: Array) -> Array:
    """`IntegerSigmoidGelu` in numpy; arguments as `gelu`."""
    return sigmoid_product(x, x_scale, x_zero_point, SLOPE, y_scale, y_zero_point)


def sigmoid_gelu_bound(x_scale: Array, y_scale: Array) -> Array:
    """Greatest error of `IntegerSigmoidGelu` against GELU, in real units."""
    return 0.0212 + 0.5 * y_scale + 0.028 * x_scale


_erf = np.vectorize(math.erf, otypes=[np.float64])

KERNELS = (
    Kernel(
        IntegerGelu,
        gelu,
        exact_gelu,
        gelu_bound,
        valid=Valid(x_scale=(0.0, GREATEST_SCALE), ratio=(LEAST_RATIO, math.inf)),
    ),
    Kernel(
        IntegerSigmoidGelu,
        sigmoid_gelu,
        exact_gelu,
        sigmoid_gelu_bound,
        valid=Valid(ratio=(LEAST_RATIO, math.inf)),
    ),
)
