"""The residual addition in integers: codes of two scales become int32 values of one common, finer scale.

    y = (a - a zero point) A + (b - b zero point) B,    A = round(a_scale / y_scale),  B = round(b_scale / y_scale)

y is meant for `IntegerLayerNorm` or `IntegerRMSNorm` with x_scale = y_scale; `common_scale` chooses y_scale so fine
that A and B lose little by rounding. Zero points are subtracted as one constant. 6 passes over the tensor. a may also
be such a y (int32, zero point 0, its scale as a_scale: A = 1), then y continues a residual stream.

Error, in real units: y_scale / 2 (|a - a zero point| + |b - b zero point|), with `common_scale` at most 1/128 of the
value of each addend (twice that for every doubling of the ratio of the greatest to the least scale beyond 256).
Valid: |a - a zero point| A + |b - b zero point| B < 2^24, as with 8-bit codes and A, B <= 2^15. Formula: I-BERT (Kim et
al. 2021, arXiv 2101.01321) rescales to the scale of the result; here the result stays finer than either.
"""

from __future__ import annotations

import numpy as np
from onnxscript import script

from bct_onnx.integer.kernel import BCT, INT32, Array, Kernel, Tensor, op

STEPS = 64.0  # of y per step of the finer addend
MOST = 2.0**14  # steps of y per step of the coarser one


@script(BCT, default_opset=op)
def IntegerAdd(
    a: Tensor,
    a_scale: Tensor,
    a_zero_point: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero_point: Tensor,
    y_scale: Tensor,
) -> Tensor:
    """Sum of two tensors of codes as int32 in steps of y_scale, a fraction of both scales (scalars, per channel [N] or
    per row [..., 1]): error at most y_scale / 2 per step of a and of b.
    """
    a_steps = op.Cast(op.Round(a_scale / y_scale), to=INT32)
    b_steps = op.Cast(op.Round(b_scale / y_scale), to=INT32)
    zero = op.Cast(a_zero_point, to=INT32) * a_steps + op.Cast(b_zero_point, to=INT32) * b_steps
    return op.Cast(a, to=INT32) * a_steps + op.Cast(b, to=INT32) * b_steps - zero


def add(
    a: Array, a_scale: Array, a_zero_point: Array, b: Array, b_scale: Array, b_zero_point: Array, y_scale: Array
) -> Array:
    """`IntegerAdd` in numpy.

    Args:
        a: uint8, int8 or int32, any shape.
        a_scale: float32, a scalar, [N] or [..., 1].
        a_zero_point: Scalar of the type of ``a``.
        b: uint8, int8 or int32, of the shape of ``a``.
        b_scale: float32, a scalar, [N] or [..., 1].
        b_zero_point: Scalar of the type of ``b``.
        y_scale: float32, a scalar or [..., 1], at most 2^15 times smaller than the other scales.
    """
    a_steps, b_steps = (np.rint(scale / y_scale).astype(np.int32) for scale in (a_scale, b_scale))
    zero = a_zero_point.astype(np.int32) * a_steps + b_zero_point.astype(np.int32) * b_steps
    total: Array = a.astype(np.int32) * a_steps + b.astype(np.int32) * b_steps - zero
    return total


def common_scale(a_scale: Array, b_scale: Array) -> float:
    """A y_scale for `IntegerAdd`: 1/64 of the least of all scales, but at least 2^-14 of the greatest, as float32.

    >>> common_scale(np.float32(0.5), np.float32([0.25, 1.0])) == 0.25 / 64
    True
    """
    scales = np.concatenate([np.ravel(a_scale), np.ravel(b_scale)]).astype(np.float32)
    return float(np.maximum(scales.min() / np.float32(STEPS), scales.max() / np.float32(MOST)))


def exact_add(a: Array, b: Array) -> Array:
    """a + b, float64."""
    total: Array = np.asarray(a, np.float64) + np.asarray(b, np.float64)
    return total


def add_bound(a: Array, b: Array, y_scale: Array) -> Array:
    """Greatest error of `IntegerAdd`, in real units; ``a`` and ``b`` are codes less their zero points."""
    bound: Array = np.float64(y_scale) / 2 * (np.abs(a) + np.abs(b))
    return bound


KERNELS = (Kernel(IntegerAdd, add, exact_add, add_bound, codes=("a", "b")),)
