"""Softmax over the last axis from codes to codes, with the exponential of I-BERT or that of I-ViT.

Sources: i-exp, Kim et al. 2021, arXiv 2101.01321; shift-exp, Li and Gu 2022, arXiv 2207.01405. With d = (row maximum -
code), which is not negative, and u = d x_scale / ln 2 in fixed point, u = z + f with z whole and 0 <= f < 1:

    exp(-d x_scale) = 2^-z 2^-f,    2^-f ~ 0.3585 (1.353 - f ln 2)^2 + 0.344  (i-exp)   or   1 - f / 2  (shift-exp)
    y = zero point + round(e / sum(e) / y_scale)

The square is completed, (B - f)^2 + C, so that i-exp takes one product. u is finer than I-BERT's whole number of steps
per ln 2, which fails for codes of 8 bits: there, ln 2 is only a few steps. Only differences of codes count, so the zero
point of x has no effect.

Error, in real units, for rows of n: i-exp 0.0016 + n 5.3e-6 + 0.53 y_scale, shift-exp 0.015 + n 3.9e-6 + 0.54 y_scale.
The first term comes from the quotient of the approximation by exp, which stays within 0.9966..1.0022 (i-exp) and
1..1.0615 (shift-exp): a share moves by at most (r - 1) / (r + 1), r^2 the quotient of these ends. The second is what n
elements lose to whole exponentials, reached only if n - 1 elements are just too small to count.
Valid for x scales from 2^-16 to 4, y scales from 1/256 and rows of at most 5600.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnxscript import script

from bct_onnx.integer.kernel import BCT, INT32, UINT8, UINT32, Array, Kernel, Tensor, f32, i32, op

LOG2_E = 1.4426950408889634
GREATEST_SCALE = 4.0
FRACTION = 20  # bits of u after the point
SQUARED = 14  # bits of f that enter the square
ROOT = round(1.353 * LOG2_E * 2**SQUARED)
CONSTANT = round(0.344 / 0.3585 * LOG2_E**2 * 4**SQUARED)
DOWN = 13  # shifts beside z: exponentials from 190290 down
SHIFT_DOWN = 3  # the same for shift-exp: from 2^18 down
SHIFTED_OUT = 31  # shifts that leave nothing; runtimes disagree about 32
OUTPUT = 22  # bits of the factor from exponentials to output codes
SHOWN = 1 << 25  # above every code, however far down the hidden ones are put


def _u32(value: int) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.asarray(value, np.uint32))


@script(BCT, default_opset=op)
def IntegerExpStep(x_scale: Tensor) -> Tensor:
    """One step of x in powers of two, x_scale / ln 2, with 20 bits after the point."""
    least = op.Constant(value=f32(1))
    scale = op.Min(x_scale, op.Constant(value=f32(GREATEST_SCALE)))
    step = op.Round(op.Mul(scale, op.Constant(value=f32(LOG2_E * 2**FRACTION))))
    return op.Cast(op.Max(step, least), to=INT32)


@script(BCT, default_opset=op)
def IntegerExp(distance: Tensor, step: Tensor) -> Tensor:
    """190290 exp(-distance x_scale) of uint32 distances, by the polynomial of I-BERT; step is `IntegerExpStep`."""
    product = op.Add(op.Mul(distance, op.Cast(step, to=UINT32)), op.Constant(value=_u32(DOWN << FRACTION)))
    u = op.Min(product, op.Constant(value=_u32(SHIFTED_OUT << FRACTION)))
    whole = op.BitShift(u, op.Constant(value=_u32(FRACTION)), direction="RIGHT")
    moved = op.BitShift(u, op.Constant(value=_u32(FRACTION - SQUARED)), direction="RIGHT")
    fraction = op.BitwiseAnd(moved, op.Constant(value=_u32(2**SQUARED - 1)))
    root = op.Sub(op.Constant(value=_u32(ROOT)), fraction)
    power = op.Add(op.Mul(root, root), op.Constant(value=_u32(CONSTANT)))
    return op.Cast(op.BitShift(power, whole, direction="RIGHT"), to=INT32)


@script(BCT, default_opset=op)
def IntegerShiftExp(distance: Tensor, step: Tensor) -> Tensor:
    """2^18 exp(-distance x_scale) of uint32 distances, by the shifts of I-ViT; step is `IntegerExpStep`."""
    product = op.Add(op.Mul(distance, op.Cast(step, to=UINT32)), op.Constant(value=_u32(SHIFT_DOWN << FRACTION)))
    u = op.Min(product, op.Constant(value=_u32(SHIFTED_OUT << FRACTION)))
    whole = op.BitShift(u, op.Constant(value=_u32(FRACTION)), direction="RIGHT")
    fraction = op.BitwiseAnd(u, op.Constant(value=_u32(2**FRACTION - 1)))
    power = op.Sub(op.Constant(value=_u32(2 << FRACTION)), fraction)
    return op.Cast(op.BitShift(power, whole, direction="RIGHT"), to=INT32)


@script(BCT, default_opset=op)
def IntegerShares(e: Tensor, y_scale: Tensor, y_zero_point: Tensor) -> Tensor:
    """Codes of e / sum(e) over the last axis, of int32 e that are not negative; where all are 0, the zero point."""
    one = op.Constant(value=i32(1))
    two = op.Constant(value=i32(2))
    unit = op.Div(op.Constant(value=f32(1 << OUTPUT)), y_scale)
    codes = op.Cast(op.Round(op.Min(unit, op.Constant(value=f32(256 << OUTPUT)))), to=INT32)
    scaled_zero_point = op.Mul(op.Cast(y_zero_point, to=INT32), op.Constant(value=i32(1 << OUTPUT)))
    offset = op.Add(scaled_zero_point, op.Constant(value=i32(1 << (OUTPUT - 1))))

    total = op.Max(op.ReduceSum(e, op.Constant(value_ints=[-1])), one)
    factor = op.Div(op.Add(codes, op.Div(total, two)), total)
    code = op.Div(op.Add(op.Mul(e, factor), offset), op.Constant(value=i32(1 << OUTPUT)))
    return op.Cast(op.Min(code, op.Constant(value=i32(255))), to=UINT8)


@script(BCT, default_opset=op)
def IntegerSoftmax(x: Tensor, x_scale: Tensor, x_zero_point: Tensor, y_scale: Tensor, y_zero_point: Tensor) -> Tensor:
    """Softmax of codes over the last axis in integers, with the exponential of I-BERT.

    Error at most 0.0016 + 0.53 y_scale + 5.3e-6 per element of the row.
    """
    difference = op.Sub(op.ReduceMax(x, op.Constant(value_ints=[-1])), x)
    distance = op.Cast(op.Cast(difference, to=UINT8), to=UINT32)
    y = IntegerShares(IntegerExp(distance, IntegerExpStep(x_scale)), y_scale, y_zero_point)
    return y


@script(BCT, default_opset=op)
def IntegerShiftSoftmax(
    x: Tensor, x_scale: Tensor, x_zero_point: Tensor, y_scale: Tensor, y_zero_point: Tensor
) -> Tensor:
    """Softmax of codes over the last axis in integers, with the exponential of I-ViT: shifts, no polynomial.

    Error at most 0.015 + 0.54 y_scale + 3.9e-6 per element of the row.
    """
    difference = op.Sub(op.ReduceMax(x, op.Constant(value_ints=[-1])), x)
    distance = op.Cast(op.Cast(difference, to=UINT8), to=UINT32)
    y = IntegerShares(IntegerShiftExp(distance, IntegerExpStep(x_scale)), y_scale, y_zero_point)
    return y


@script(BCT, default_opset=op)
def IntegerMaskedSoftmax(
    x: Tensor, x_scale: Tensor, x_zero_point: Tensor, keep: Tensor, y_scale: Tensor, y_zero_point: Tensor
) -> Tensor:
    """`IntegerSoftmax` where keep is 1; where it is 0 the share is 0, and the codes there have no influence.

    keep is uint8 or bool, broadcast to x. A row that keeps nothing gives zeros.
    """
    step = IntegerExpStep(x_scale)
    vanishing = op.Div(op.Constant(value=i32(SHIFTED_OUT << FRACTION)), step)
    hidden = op.Sub(op.Constant(value=i32(-384)), vanishing)
    shown = op.Mul(op.Cast(keep, to=INT32), op.Constant(value=i32(2 * SHOWN)))
    code = op.Min(op.Cast(x, to=INT32), op.Add(hidden, shown))
    top = op.Max(op.ReduceMax(code, op.Constant(value_ints=[-1])), op.Constant(value=i32(-128)))
    distance = op.Cast(op.Sub(top, code), to=UINT32)
    y = IntegerShares(IntegerExp(distance, step), y_scale, y_zero_point)
    return y


def softmax(x: Array, x_scale: Array, x_zero_point: Array, y_scale: Array, y_zero_point: Array) -> Array:
    """`IntegerSoftmax` in numpy.

    Args:
        x: uint8 or int8 codes [..., n].
        x_scale: float32, a scalar or [..., 1].
        x_zero_point: Scalar of the type of ``x``; without effect.
        y_scale: float32, a scalar or [..., 1].
        y_zero_point: uint8 scalar.
    """
    return masked_softmax(x, x_scale, x_zero_point, np.array(1, np.uint8), y_scale, y_zero_point)


def shift_softmax(x: Array, x_scale: Array, x_zero_point: Array, y_scale: Array, y_zero_point: Array) -> Array:
    """`IntegerShiftSoftmax` in numpy; arguments as for `softmax`."""
    code = x.astype(np.int64)
    u = _shifts(code.max(-1, keepdims=True) - code, x_scale, SHIFT_DOWN)
    return _shares(((2 << FRACTION) - u % 2**FRACTION) >> (u >> FRACTION), y_scale, y_zero_point)


def masked_softmax(
    x: Array, x_scale: Array, x_zero_point: Array, keep: Array, y_scale: Array, y_zero_point: Array
) -> Array:
    """`IntegerMaskedSoftmax` in numpy; arguments as for `softmax`, and keep: uint8 or bool, broadcast to ``x``."""
    kept = np.broadcast_to(keep, x.shape) != 0
    code = x.astype(np.int64)
    top = np.where(kept, code, -128).max(-1, keepdims=True)
    u = _shifts(np.where(kept, top - code, 0), x_scale, DOWN)
    power = (ROOT - (u >> (FRACTION - SQUARED)) % 2**SQUARED) ** 2 + CONSTANT
    return _shares(np.where(kept, power >> (u >> FRACTION), 0), y_scale, y_zero_point)


def _shifts(distance: Array, x_scale: Array, down: int) -> Array:
    step = np.rint(np.minimum(x_scale, np.float32(GREATEST_SCALE)) * np.float32(LOG2_E * 2**FRACTION))
    step = np.maximum(step, 1).astype(np.int64)
    found: Array = np.minimum(distance * step + (down << FRACTION), SHIFTED_OUT << FRACTION)
    return found


def _shares(e: Array, y_scale: Array, y_zero_point: Array) -> Array:
    codes = np.rint(np.minimum(np.float32(1 << OUTPUT) / y_scale, np.float32(256 << OUTPUT))).astype(np.int64)
    total = np.maximum(e.sum(-1, keepdims=True), 1)
    offset = (y_zero_point.astype(np.int64) << OUTPUT) + (1 << (OUTPUT - 1))
    code = (e * ((codes + total // 2) // total) + offset) >> OUTPUT
    found: Array = np.minimum(code, 255).astype(np.uint8)
    return found


def exact_softmax(x: Array, keep: Array | bool = True) -> Array:
    """exp(x) / sum exp(x) over the last axis where ``keep``, else 0; float64."""
    kept = np.broadcast_to(keep, x.shape)
    top = np.where(kept, x, -np.inf).max(-1, keepdims=True, initial=-1e300)
    e = np.where(kept, np.exp(np.where(kept, x - top, 0)), 0)
    found: Array = e / np.maximum(e.sum(-1, keepdims=True), 1e-300)
    return found


def softmax_bound(x_scale: Array, y_scale: Array, n: int = 5600) -> Array:
    """Greatest error of `IntegerSoftmax` and `IntegerMaskedSoftmax` for rows of ``n``, in real units."""
    return 0.0016 + n * 5.3e-6 + 0.53 * y_scale


def shift_softmax_bound(x_scale: Array, y_scale: Array, n: int = 5600) -> Array:
    """Greatest error of `IntegerShiftSoftmax` for rows of ``n``, in real units."""
    return 0.015 + n * 3.9e-6 + 0.54 * y_scale


KERNELS = (
    Kernel(IntegerSoftmax, softmax, exact_softmax, softmax_bound),
    Kernel(IntegerShiftSoftmax, shift_softmax, exact_softmax, shift_softmax_bound),
    Kernel(IntegerMaskedSoftmax, masked_softmax, exact_softmax, softmax_bound, types={"keep": ir.DataType.UINT8}),
)
