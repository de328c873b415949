"""exp(-x) of non-negative integers: parts of the softmax, attention and sigmoid kernels, not kernels themselves.

Both split x = z ln 2 + r, so that exp(-x) = exp(-r) 2^-z is a shift of what depends on r in [0, ln 2) alone.

`IntegerExp`, from I-BERT (Kim et al. 2021, arXiv 2101.01321): exp(-r) ~ 0.3585 (1.353 - r)^2 + 0.344; relative to its
value at 0 off by at most 0.002. In steps of ``scale``, with u = 1 / scale:

    (round(1.353 u) - r)^2 + round(0.9596 u^2) >> z,    "one" = round(1.353 u)^2 + round(0.9596 u^2)

`ShiftExp`, from I-ViT (Li, Gu 2023, arXiv 2207.01405): 2^-f ~ 1 - f / 2, at most 0.0431 too large, without a
square. I-ViT multiplies by log2(e) in shifts; here the division by ln 2 that z needs
anyway does it exactly:

    2 L - r >> z,    L = round(ln 2 u),    "one" = 2 L

Rounding adds at most ``scale`` (ln 2 and the constants in whole steps) and 1 / one (the shift rounds down). Passes of
full size: 12 and 10.
"""

from __future__ import annotations

import numpy as np
from onnxscript import script

from bct_onnx.integer.kernel import BCT, INT32, UINT32, Array, Tensor, f32, i32, op

LN2 = 0.6931472
END, OFFSET = 1.353, 0.344 / 0.3585
UNIT = 6900.0
"""Steps per 1 in `ExpOfMagnitude`: "one" is below 2^27 (before its shift) and above 2^25."""
LEAST_SCALE = 1.001 / UNIT
"""Of `ExpOfMagnitude`; smaller scales count as this one."""
FAR = 22.0
"""exp(-22) is less than 2^-31: 0 in any int32."""


@script(BCT, default_opset=op)
def IntegerExp(x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """I-BERT's exp(-scale x), x >= 0 int32, as y / one: 0.3585 (1.353 - r)^2 + 0.344, then a shift by z; x = z ln2 + r.

    scale from 2^-14 to 2^-5; y and one drop shift (int32, 0 to 30) more bits. Error 0.002 + scale + 1 / one.
    """
    ln2 = op.Cast(op.Round(op.Div(op.Constant(value=f32(LN2)), scale)), to=INT32)
    end = op.Cast(op.Round(op.Div(op.Constant(value=f32(END)), scale)), to=INT32)
    offset = op.Cast(op.Round(op.Div(op.Constant(value=f32(OFFSET)), op.Mul(scale, scale))), to=INT32)
    whole = op.Cast(op.Add(op.Mul(end, end), offset), to=UINT32)
    one = op.Cast(op.BitShift(whole, op.Cast(shift, to=UINT32), direction="RIGHT"), to=INT32)
    deepest = op.Mul(ln2, op.Sub(op.Constant(value=i32(31)), shift))

    depth = op.Min(x, deepest)
    z = op.Div(depth, ln2)
    distance = op.Sub(op.Add(op.Mul(z, ln2), end), depth)
    square = op.Mul(distance, distance)
    mantissa = op.Cast(op.Add(square, offset), to=UINT32)
    exponent = op.Cast(op.Add(z, shift), to=UINT32)
    y = op.Cast(op.BitShift(mantissa, exponent, direction="RIGHT"), to=INT32)
    return y, one


@script(BCT, default_opset=op)
def ShiftExp(x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """I-ViT's exp(-scale x), x >= 0 int32, as y / one: (1 - f / 2), then a shift by z; x = (z + f) ln2.

    scale from 2^-25 to 2^-5; y and one drop shift (int32, 0 to 30) more bits. Error 0.0431 + scale + 1 / one.
    """
    ln2 = op.Cast(op.Round(op.Div(op.Constant(value=f32(LN2)), scale)), to=INT32)
    twice = op.Add(ln2, ln2)
    one = op.Cast(op.BitShift(op.Cast(twice, to=UINT32), op.Cast(shift, to=UINT32), direction="RIGHT"), to=INT32)
    deepest = op.Mul(ln2, op.Sub(op.Constant(value=i32(31)), shift))

    depth = op.Min(x, deepest)
    z = op.Div(depth, ln2)
    mantissa = op.Cast(op.Sub(op.Add(op.Mul(z, ln2), twice), depth), to=UINT32)
    exponent = op.Cast(op.Add(z, shift), to=UINT32)
    y = op.Cast(op.BitShift(mantissa, exponent, direction="RIGHT"), to=INT32)
    return y, one


@script(BCT, default_opset=op)
def ExpOfMagnitude(magnitude: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """IntegerExp of code magnitudes (0 to 255, int32) of any scale: they are multiplied by an integer first.

    y / one = exp(-scale magnitude); one is between 2^25 and 2^27, shifted right by shift.
    """
    least = op.Constant(value=f32(LEAST_SCALE))
    near = op.Min(op.Max(scale, least), op.Constant(value=f32(FAR)))
    steps = op.Floor(op.Mul(near, op.Constant(value=f32(UNIT))))
    fine = op.Mul(magnitude, op.Cast(steps, to=INT32))
    y, one = IntegerExp(fine, op.Div(near, steps), shift)
    return y, one


def integer_exp(x: Array, scale: Array, shift: int) -> tuple[Array, Array]:
    """`IntegerExp` in numpy.

    Args:
        x: int32, not negative, any shape.
        scale: float32, a scalar or [..., 1], from 2^-14 to 2^-5: the value is -scale x.
        shift: How many bits y and one drop, 0 to 30, but fewer than one has: at the scale 2^-5 it has 12.

    Returns:
        y (shape of x) and one (shape of scale), int32: exp(-scale x) ~ y / one.
    """
    f = np.float32
    ln2, end = (np.rint(f(value) / scale).astype(np.int32) for value in (LN2, END))
    offset = np.rint(f(OFFSET) / (scale * scale)).astype(np.int32)
    depth = np.minimum(x, ln2 * np.int32(31 - shift))
    z = depth // ln2
    distance = z * ln2 + end - depth
    return (distance * distance + offset) >> (z + np.int32(shift)), (end * end + offset) >> np.int32(shift)


def shift_exp(x: Array, scale: Array, shift: int) -> tuple[Array, Array]:
    """`ShiftExp` in numpy; as `integer_exp`, with scale from 2^-25 to 2^-5."""
    ln2 = np.rint(np.float32(LN2) / scale).astype(np.int32)
    depth = np.minimum(x, ln2 * np.int32(31 - shift))
    z = depth // ln2
    return (z * ln2 + 2 * ln2 - depth) >> (z + np.int32(shift)), (2 * ln2) >> np.int32(shift)


def exp_of_magnitude(magnitude: Array, scale: Array, shift: int) -> tuple[Array, Array]:
    """`ExpOfMagnitude` in numpy: ``magnitude`` int32 from 0 to 255, ``scale`` any, else as `integer_exp`."""
    f = np.float32
    near = np.minimum(np.maximum(scale, f(LEAST_SCALE)), f(FAR))
    steps = np.floor(near * f(UNIT))
    return integer_exp(magnitude * steps.astype(np.int32), near / steps, shift)
