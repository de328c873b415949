"""Attention from the codes of q, k and v to the codes of the context, in integers throughout.

    score = (q - z_q) . (k - z_k)                       int32, MatMulInteger
    w = (row maximum - score) s 128,  s = q_scale k_scale qk_scale       steps of 1/128, up to 750
    e = 1586304000 // ((w + 128) (w^2 + 48600)) - 2     253 exp(-w / 128), codes 253..0
    context = z_y + round((sum e v / sum e - z_v) v_scale / y_scale)     v raw: MatMulInteger of two uint8

With x = w / 128 the exponential is 255 / ((1 + x) (1 + x^2 / 2.966)) - 2: a cubic below a fraction stroke falls like
exp(-x) over the 6 units in which a code of 8 bits falls from 253 to 0, and costs one division where a polynomial needs
its whole and fractional part taken apart and shifted (own fit; 1.42 codes at most, rounding included). The e are
relative to the maximum of their row and are divided by their own sum, so nothing is lost to normalization, and no
scale of the scores is needed. Masked scores are put below every other, where e is 0: columns that are masked have no
influence at all, nor have other rows or sequences. A row that keeps nothing gives the zero point.

Error: each e is off by at most 2.5 codes (the fit 1.42, a step of w 1) from E = 253 exp(score - top).
The context is a mean, so with R = (greatest - least v of the row) it is off by at most R min(1, 2.5 T / sum E) for T
keys kept, + 0.6 y_scale. In practice errors of e have both signs: see the tests.
Valid for head sizes to 4096, T to 8192, s from 2^-20 to 1/4 and y_scale from v_scale / 8 to 2 v_scale.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnxscript import script

from bct_onnx.integer.kernel import BCT, INT32, UINT8, Array, Kernel, Tensor, f32, i32, op, u8
from bct_onnx.integer.softmax import LAST, exact_softmax

ONE_COLUMN = onnx.numpy_helper.from_array(np.array([1], np.int64))
STEPS = 128  # of w per unit of the exponent
LINEAR, SQUARE = 128, 48600
TOP = 255 * LINEAR * SQUARE
TALLEST = 253  # e of the row maximum
WEIGHT_ERROR = 2.5
LOWERED = 2  # what is taken off the quotient, so that it ends at 0
END = 750  # from 746 to 866 e is 0
POINT = 21  # bits after the point where w is scaled
GREATEST_STEP = 0.25  # of the exponent per unit of the score: then a clamped w stays below 866
HIDDEN, LOWEST = -(1 << 29), -(1 << 28)  # where masked scores go; the least score there is
MASS = 1 << 29  # what a row's weighted sum of v may reach
RATIO, COARSE = 15, 7  # bits after the point of y_scale / v_scale; bits of a row's sum dropped for their product


@script(BCT, default_opset=op)
def IntegerAttentionWeights(scores: Tensor, step: Tensor) -> Tensor:
    """253 exp((score - row maximum) step) as uint8, of int32 scores above -2^28; those below -2^29 give 0."""
    least = op.Constant(value=f32(8))
    greatest = op.Constant(value=f32(GREATEST_STEP * (STEPS << POINT)))
    scaled = op.Round(op.Mul(step, op.Constant(value=f32(STEPS << POINT))))
    factor = op.Cast(op.Min(op.Max(scaled, least), greatest), to=INT32)
    half = op.Div(op.Constant(value=i32(1 << (POINT - 1))), factor)
    span = op.Add(op.Div(op.Constant(value=i32(END << POINT)), factor), op.Constant(value=i32(1)))

    last = op.Constant(value=LAST)
    maximum = op.Max(op.ReduceMax(scores, last, keepdims=0), op.Constant(value=i32(LOWEST)))
    top = op.Unsqueeze(op.Add(maximum, half), last)
    distance = op.Min(op.Sub(top, scores), span)
    w = op.Div(op.Mul(distance, factor), op.Constant(value=i32(1 << POINT)))
    linear = op.Add(w, op.Constant(value=i32(LINEAR)))
    cubic = op.Mul(linear, op.Add(op.Mul(w, w), op.Constant(value=i32(SQUARE))))
    quotient = op.Cast(op.Div(op.Constant(value=i32(TOP)), cubic), to=UINT8)
    return op.Sub(quotient, op.Constant(value=u8(LOWERED)))


@script(BCT, default_opset=op)
def IntegerWeightedMean(
    weights: Tensor, v: Tensor, v_scale: Tensor, v_zero_point: Tensor, y_scale: Tensor, y_zero_point: Tensor
) -> Tensor:
    """Codes of the mean of v [..., T, D] weighted by uint8 weights [..., S, T]; where all are 0, y_zero_point."""
    last = op.Constant(value=LAST)
    one = op.Constant(value=i32(1))
    two = op.Constant(value=i32(2))
    greatest = op.Constant(value=f32(2))
    scaled = op.Mul(op.Min(op.Div(y_scale, v_scale), greatest), op.Constant(value=f32(1 << RATIO)))
    ratio = op.Cast(op.Round(scaled), to=INT32)

    keys = op.Concat(op.Shape(v, start=-2, end=-1), op.Constant(value=ONE_COLUMN), axis=0)
    ones = op.ConstantOfShape(keys, value=onnx.numpy_helper.from_array(np.ones(1, np.int8)))
    total = op.Squeeze(op.MatMulInteger(weights, ones), last)
    fill = op.Constant(value=i32(MASS // 255))
    unit = op.Div(fill, op.Max(total, one))
    mass = op.Mul(total, unit)
    coarse = op.Mul(op.Div(mass, op.Constant(value=i32(1 << COARSE))), ratio)
    divisor = op.Max(op.Div(coarse, op.Constant(value=i32(1 << (RATIO - COARSE)))), one)
    landing = op.Add(op.Mul(divisor, op.Cast(y_zero_point, to=INT32)), op.Div(divisor, two))
    offset = op.Sub(landing, op.Mul(mass, op.Cast(v_zero_point, to=INT32)))

    product_sum = op.Mul(op.MatMulInteger(weights, v), op.Unsqueeze(unit, last))
    shifted_sum = op.Relu(op.Add(product_sum, op.Unsqueeze(offset, last)))
    code = op.Div(shifted_sum, op.Unsqueeze(divisor, last))
    return op.Cast(op.Min(code, op.Constant(value=i32(255))), to=UINT8)


@script(BCT, default_opset=op)
def IntegerAttention(
    q: Tensor,
    q_scale: Tensor,
    q_zero_point: Tensor,
    k: Tensor,
    k_scale: Tensor,
    k_zero_point: Tensor,
    v: Tensor,
    v_scale: Tensor,
    v_zero_point: Tensor,
    qk_scale: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
) -> Tensor:
    """softmax(q k^T qk_scale) v in integers: uint8 codes q [B, H, S, D], k and v [B, H, T, D] to y [B, H, S, D].

    The exponential is 255 / ((1 + x) (1 + x^2 / 2.966)) - 2, relative to the row maximum.
    """
    step = op.Mul(op.Mul(q_scale, k_scale), qk_scale)
    scores = op.MatMulInteger(q, op.Transpose(k, perm=[0, 1, 3, 2]), q_zero_point, k_zero_point)
    weights = IntegerAttentionWeights(scores, step)
    return IntegerWeightedMean(weights, v, v_scale, v_zero_point, y_scale, y_zero_point)


@script(BCT, default_opset=op)
def IntegerMaskedAttention(
    q: Tensor,
    q_scale: Tensor,
    q_zero_point: Tensor,
    k: Tensor,
    k_scale: Tensor,
    k_zero_point: Tensor,
    v: Tensor,
    v_scale: Tensor,
    v_zero_point: Tensor,
    keep: Tensor,
    qk_scale: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
) -> Tensor:
    """`IntegerAttention` over the keys where keep (uint8 or bool, broadcast to [B, H, S, T]) is 1; others have no
    influence. A row that keeps nothing gives y_zero_point.
    """
    step = op.Mul(op.Mul(q_scale, k_scale), qk_scale)
    shown = op.Mul(op.Cast(keep, to=INT32), op.Constant(value=i32(-2 * HIDDEN)))
    highest = op.Add(shown, op.Constant(value=i32(HIDDEN)))
    scores = op.MatMulInteger(q, op.Transpose(k, perm=[0, 1, 3, 2]), q_zero_point, k_zero_point)
    weights = IntegerAttentionWeights(op.Min(scores, highest), step)
    return IntegerWeightedMean(weights, v, v_scale, v_zero_point, y_scale, y_zero_point)


def attention(
    q: Array,
    q_scale: Array,
    q_zero_point: Array,
    k: Array,
    k_scale: Array,
    k_zero_point: Array,
    v: Array,
    v_scale: Array,
    v_zero_point: Array,
    qk_scale: Array,
    y_scale: Array,
    y_zero_point: Array,
) -> Array:
    """`IntegerAttention` in numpy.

    Args:
        q: uint8 codes [B, H, S, D].
        k: uint8 codes [B, H, T, D]; H may be 1.
        v: uint8 codes [B, H, T, D]; H may be 1.
        qk_scale: float32 scalar, what the scores are multiplied by: 1 / sqrt(D).

    All scales are float32 scalars, all zero points uint8 scalars.
    """
    keep = np.array(1, np.uint8)
    keys, values = (k, k_scale, k_zero_point), (v, v_scale, v_zero_point)
    return masked_attention(q, q_scale, q_zero_point, *keys, *values, keep, qk_scale, y_scale, y_zero_point)


def masked_attention(
    q: Array,
    q_scale: Array,
    q_zero_point: Array,
    k: Array,
    k_scale: Array,
    k_zero_point: Array,
    v: Array,
    v_scale: Array,
    v_zero_point: Array,
    keep: Array,
    qk_scale: Array,
    y_scale: Array,
    y_zero_point: Array,
) -> Array:
    """`IntegerMaskedAttention` in numpy; as `attention`, and keep: uint8 or bool, broadcast to [B, H, S, T]."""
    scores = raw_scores(q, q_zero_point, k, k_zero_point).astype(np.int64)
    weights = attention_weights(scores, q_scale * k_scale * qk_scale, np.broadcast_to(keep, scores.shape) != 0)
    return weighted_mean(weights, v, v_scale, v_zero_point, y_scale, y_zero_point)


def raw_scores(q: Array, q_zero_point: Array, k: Array, k_zero_point: Array) -> Array:
    """(q - q_zero_point) . (k - k_zero_point) of every query and key, [B, H, S, T]: integers, exact in float64."""
    centred_q, centred_k = (x.astype(np.float64) - float(z) for x, z in ((q, q_zero_point), (k, k_zero_point)))
    scores: Array = centred_q @ centred_k.swapaxes(-1, -2)
    return scores


def attention_weights(scores: Array, step: Array, kept: Array) -> Array:
    """`IntegerAttentionWeights` in numpy: int64 scores to int64 codes 0 to 253, 0 where not ``kept``."""
    scale = np.float32(STEPS << POINT)
    factor = np.rint(step * scale)
    factor = np.minimum(np.maximum(factor, np.float32(8)), np.float32(GREATEST_STEP) * scale).astype(np.int64)
    top = np.where(kept, scores, LOWEST).max(-1, keepdims=True) + (1 << (POINT - 1)) // factor
    distance = np.minimum(np.where(kept, top - scores, top - HIDDEN), (END << POINT) // factor + 1)
    w = distance * factor >> POINT
    weights: Array = TOP // ((w + LINEAR) * (w * w + SQUARE)) - LOWERED
    return weights


def weighted_mean(
    weights: Array, v: Array, v_scale: Array, v_zero_point: Array, y_scale: Array, y_zero_point: Array
) -> Array:
    """`IntegerWeightedMean` in numpy; ``weights`` int64."""
    ratio = np.rint(np.minimum(y_scale / v_scale, np.float32(2)) * np.float32(1 << RATIO)).astype(np.int64)
    total = weights.sum(-1, keepdims=True)
    unit = (MASS // 255) // np.maximum(total, 1)
    mass = total * unit
    divisor = np.maximum((mass >> COARSE) * ratio >> (RATIO - COARSE), 1)
    offset = divisor * int(y_zero_point) + divisor // 2 - mass * int(v_zero_point)
    summed = (weights.astype(np.float64) @ v.astype(np.float64)).astype(np.int64)  # exact in float64
    codes: Array = np.minimum(np.maximum(summed * unit + offset, 0) // divisor, 255).astype(np.uint8)
    return codes


def exact_attention(q: Array, k: Array, v: Array, qk_scale: float = 1.0, keep: Array | bool = True) -> Array:
    """softmax(q k^T qk_scale) v over the keys where ``keep``; 0 in rows that keep nothing; float64."""
    mean: Array = exact_softmax(q @ k.swapaxes(-1, -2) * qk_scale, keep) @ v
    return mean


def attention_bound(
    q_scale: Array, k_scale: Array, v_scale: Array, qk_scale: Array, y_scale: Array, moved: Array | float = 1.0
) -> Array:
    """Greatest error of the context, in real units.

    Args:
        moved: The share of the weights that may be misplaced, [..., S, 1]: `misplaced`. 1 holds whatever the scores.
    """
    return np.minimum(moved, 1.0) * 255 * v_scale + 0.6 * y_scale


def misplaced(probabilities: Array, keys: Array | int) -> Array:
    """Greatest share of the weights that `IntegerAttention` puts on wrong keys, [..., S, 1].

    Args:
        probabilities: The exact softmax [..., S, T].
        keys: How many keys are kept.
    """
    greatest = probabilities.max(-1, keepdims=True)
    error: Array = WEIGHT_ERROR * keys * greatest / TALLEST
    return error


KERNELS = (
    Kernel(IntegerAttention, attention, exact_attention, attention_bound, ("q", "k", "v")),
    Kernel(
        IntegerMaskedAttention,
        masked_attention,
        exact_attention,
        attention_bound,
        ("q", "k", "v"),
        {"keep": ir.DataType.UINT8},
    ),
)
