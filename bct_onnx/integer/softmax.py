"""Softmax over the last axis from codes to codes, with the exponential of I-BERT or that of I-ViT.

Sources: Kim et al. 2021, arXiv 2101.01321; Li and Gu 2023, arXiv 2207.01405. With the exponentials of `exp`:

    e = exp(-(row maximum - code) x_scale)
    y = zero point + round(e / sum(e) / y_scale)

Only differences of codes count, so the zero point of x has no effect; e keeps 2^16 to 2^18 for 1, so that rows of 8192
still sum in int32.

Error, in real units, for rows of n: I-BERT's 0.002 + n 4.7e-6 + 0.54 y_scale, I-ViT's 0.015 + n 5.6e-6 + 0.54 y_scale.
The first term comes from the quotient of the approximation by exp, which stays within 0.9961..1.0027 (I-BERT) and
1..1.0615 (I-ViT): a share moves by at most (r - 1) / (r + 1), r^2 the quotient of these ends. The second is what n
elements lose to whole exponentials, reached only if n - 1 elements are just too small to count.

Passes of full size: 23 (I-BERT) and 21 (I-ViT), 1 more with a mask. Values per row are computed without the last axis:
as [..., 1], ONNX Runtime takes 30 times as long for them.
Valid for x scales from 0.00015 on (smaller ones count as that), y scales from 1/256 and rows of at most 8192.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
from onnxscript import script

from bct_onnx.integer.exp import FAR, LEAST_SCALE, ExpOfMagnitude, ShiftExp, exp_of_magnitude, shift_exp
from bct_onnx.integer.kernel import BCT, INT32, UINT8, Array, Kernel, Tensor, Valid, f32, i32, op

LAST = onnx.numpy_helper.from_array(np.array([-1], np.int64))
DROPPED = 9  # bits the exponential of I-BERT drops: 2^16 to 2^18 are left for 1
SHIFT_UNIT = float(1 << 17)  # steps per 1 of I-ViT's: 2^17.5 for 1
VANISHING = 13.0  # from here on the exponential of I-BERT is 0: 2^18 exp(-13) < 1
SHOWN = 1 << 17  # above VANISHING / LEAST_SCALE
VALID = Valid(x_scale=(LEAST_SCALE, math.inf), y_scale=(1 / 256, math.inf), row=8192)
OUTPUT = 22  # bits of the factor from exponentials to output codes


@script(BCT, default_opset=op)
def IntegerShares(e: Tensor, y_scale: Tensor, y_zero_point: Tensor) -> Tensor:
    """Codes of e / sum(e) over the last axis, of int32 e that are not negative; where all are 0, the zero point."""
    last = op.Constant(value=LAST)
    one = op.Constant(value=i32(1))
    two = op.Constant(value=i32(2))
    unit = op.Div(op.Constant(value=f32(1 << OUTPUT)), y_scale)
    codes = op.Cast(op.Round(op.Min(unit, op.Constant(value=f32(256 << OUTPUT)))), to=INT32)
    scaled_zero_point = op.Mul(op.Cast(y_zero_point, to=INT32), op.Constant(value=i32(1 << OUTPUT)))
    offset = op.Add(scaled_zero_point, op.Constant(value=i32(1 << (OUTPUT - 1))))

    total = op.Max(op.ReduceSum(e, last, keepdims=0), one)
    factor = op.Unsqueeze(op.Div(op.Add(codes, op.Div(total, two)), total), last)
    code = op.Div(op.Add(op.Mul(e, factor), offset), op.Constant(value=i32(1 << OUTPUT)))
    return op.Cast(op.Min(code, op.Constant(value=i32(255))), to=UINT8)


@script(BCT, default_opset=op)
def IntegerSoftmax(x: Tensor, x_scale: Tensor, x_zero_point: Tensor, y_scale: Tensor, y_zero_point: Tensor) -> Tensor:
    """Softmax of codes over the last axis in integers, with the exponential of I-BERT.

    Error at most 0.002 + 0.54 y_scale + 4.7e-6 per element of the row.
    """
    last = op.Constant(value=LAST)
    difference = op.Sub(op.ReduceMax(x, last), x)
    distance = op.Cast(op.Cast(difference, to=UINT8), to=INT32)
    e, _ = ExpOfMagnitude(distance, x_scale, op.Constant(value=i32(DROPPED)))
    return IntegerShares(e, y_scale, y_zero_point)


@script(BCT, default_opset=op)
def IntegerShiftSoftmax(
    x: Tensor, x_scale: Tensor, x_zero_point: Tensor, y_scale: Tensor, y_zero_point: Tensor
) -> Tensor:
    """Softmax of codes over the last axis in integers, with the exponential of I-ViT: shifts, no polynomial.

    Error at most 0.015 + 0.54 y_scale + 5.6e-6 per element of the row.
    """
    least = op.Constant(value=f32(LEAST_SCALE))
    near = op.Min(op.Max(x_scale, least), op.Constant(value=f32(FAR)))
    unit = op.Constant(value=f32(SHIFT_UNIT))
    steps = op.Floor(op.Mul(near, unit))
    last = op.Constant(value=LAST)
    difference = op.Sub(op.ReduceMax(x, last), x)
    distance = op.Cast(op.Cast(difference, to=UINT8), to=INT32)
    fine = op.Mul(distance, op.Cast(steps, to=INT32))
    dropped = op.Constant(value=i32(0))
    e, _ = ShiftExp(fine, op.Div(near, steps), dropped)
    return IntegerShares(e, y_scale, y_zero_point)


@script(BCT, default_opset=op)
def IntegerMaskedSoftmax(
    x: Tensor, x_scale: Tensor, x_zero_point: Tensor, keep: Tensor, y_scale: Tensor, y_zero_point: Tensor
) -> Tensor:
    """`IntegerSoftmax` where keep is 1; where it is 0 the share is 0, and the codes there have no influence.

    keep is uint8 or bool, broadcast to x. A row that keeps nothing gives zeros.
    """
    scale = op.Max(x_scale, op.Constant(value=f32(LEAST_SCALE)))
    vanishing = op.Cast(op.Floor(op.Div(op.Constant(value=f32(VANISHING)), scale)), to=INT32)
    hidden = op.Sub(op.Constant(value=i32(-384)), vanishing)
    shown = op.Mul(op.Cast(keep, to=INT32), op.Constant(value=i32(SHOWN)))
    code = op.Min(op.Cast(x, to=INT32), op.Add(hidden, shown))
    last = op.Constant(value=LAST)
    top = op.Max(op.ReduceMax(code, last, keepdims=0), op.Constant(value=i32(-128)))
    distance = op.Sub(op.Unsqueeze(top, last), code)
    e, _ = ExpOfMagnitude(distance, x_scale, op.Constant(value=i32(DROPPED)))
    return IntegerShares(e, y_scale, y_zero_point)


def softmax(x: Array, x_scale: Array, x_zero_point: Array, y_scale: Array, y_zero_point: Array) -> Array:
    """`IntegerSoftmax` in numpy.

    Args:
        x: uint8 or int8 codes [..., n].
        x_scale: float32, a scalar or [..., 1].
        x_zero_point: Scalar of the type of ``x``; without effect.
        y_scale: float32 scalar.
        y_zero_point: uint8 scalar.
    """
    return masked_softmax(x, x_scale, x_zero_point, np.array(1, np.uint8), y_scale, y_zero_point)


def shift_softmax(x: Array, x_scale: Array, x_zero_point: Array, y_scale: Array, y_zero_point: Array) -> Array:
    """`IntegerShiftSoftmax` in numpy; arguments as for `softmax`."""
    near = np.minimum(np.maximum(x_scale, np.float32(LEAST_SCALE)), np.float32(FAR))
    steps = np.floor(near * np.float32(SHIFT_UNIT))
    code = x.astype(np.int32)
    fine = (code.max(-1, keepdims=True) - code) * steps.astype(np.int32)
    return _shares(shift_exp(fine, near / steps, 0)[0], y_scale, y_zero_point)


def masked_softmax(
    x: Array, x_scale: Array, x_zero_point: Array, keep: Array, y_scale: Array, y_zero_point: Array
) -> Array:
    """`IntegerMaskedSoftmax` in numpy; arguments as for `softmax`, and keep: uint8 or bool, broadcast to ``x``."""
    kept = np.broadcast_to(keep, x.shape) != 0
    code = x.astype(np.int32)
    top = np.where(kept, code, -128).max(-1, keepdims=True)
    e, _ = exp_of_magnitude(np.where(kept, top - code, 0), x_scale, DROPPED)
    return _shares(np.where(kept, e, 0), y_scale, y_zero_point)


def _shares(e: Array, y_scale: Array, y_zero_point: Array) -> Array:
    codes = np.rint(np.minimum(np.float32(1 << OUTPUT) / y_scale, np.float32(256 << OUTPUT))).astype(np.int64)
    total = np.maximum(e.sum(-1, keepdims=True, dtype=np.int64), 1)
    offset = (y_zero_point.astype(np.int64) << OUTPUT) + (1 << (OUTPUT - 1))
    code = (e * ((codes + total // 2) // total) + offset) >> OUTPUT
    shares: Array = np.minimum(code, 255).astype(np.uint8)
    return shares


def exact_softmax(x: Array, keep: Array | bool = True) -> Array:
    """exp(x) / sum exp(x) over the last axis where ``keep``, else 0; float64."""
    kept = np.broadcast_to(keep, x.shape)
    top = np.where(kept, x, -np.inf).max(-1, keepdims=True, initial=-1e300)
    e = np.where(kept, np.exp(np.where(kept, x - top, 0)), 0)
    shares: Array = e / np.maximum(e.sum(-1, keepdims=True), 1e-300)
    return shares


def softmax_bound(x_scale: Array, y_scale: Array, n: int = 8192) -> Array:
    """Greatest error of `IntegerSoftmax` and `IntegerMaskedSoftmax` for rows of ``n``, in real units."""
    return 0.002 + n * 4.7e-6 + 0.54 * y_scale


def shift_softmax_bound(x_scale: Array, y_scale: Array, n: int = 8192) -> Array:
    """Greatest error of `IntegerShiftSoftmax` for rows of ``n``, in real units."""
    return 0.015 + n * 5.6e-6 + 0.54 * y_scale


KERNELS = (
    Kernel(IntegerSoftmax, softmax, exact_softmax, softmax_bound, valid=VALID),
    Kernel(IntegerShiftSoftmax, shift_softmax, exact_softmax, shift_softmax_bound, valid=VALID),
    Kernel(
        IntegerMaskedSoftmax,
        masked_softmax,
        exact_softmax,
        softmax_bound,
        types={"keep": ir.DataType.UINT8},
        valid=VALID,
    ),
)
