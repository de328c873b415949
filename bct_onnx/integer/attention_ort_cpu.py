"""Attention for ONNX Runtime on the CPU: `attention` with scores of 8 bits and the exponential as a table.

Nothing of full size is wider than a byte, which is what makes it fast there (2 to 3 times `IntegerMaskedAttention`):

    t = QLinearMatMul(q, k)                        scores in t_scale and t_zero_point, from calibration
    c = min(t, top) + top - row maximum            what is left of the row maximum, above 0
    e = QLinearSigmoid(c)                          a table of 256; sigmoid(x) = exp(x) (1 - exp(x)), here x <= -5
    context = mean of v weighted by e              `IntegerWeightedMean`

Each e is off by t_scale / 2 of itself, by up to 0.7 % (the sigmoid) and by half a code. Scores in steps of t_scale have
to span what matters: t_scale from 0.06 to 0.3, the zero point such that row maxima lie at least 6.3 / t_scale steps
above code 0, where masked scores go; below that a row loses resolution and in the end gives y_zero_point. Scores above
code 255 - 5 / t_scale are cut. QLinearMatMul rounds a float product, so other runtimes may differ by one code of t.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxscript.values
from onnxscript import script

from bct_onnx.integer.attention import IntegerWeightedMean, exact_attention, raw_scores, weighted_mean
from bct_onnx.integer.kernel import BCT, INT32, UINT8, Array, Kernel, Tensor, f32, op, u8
from bct_onnx.integer.softmax import LAST

MICROSOFT = onnxscript.values.Opset("com.microsoft", 1)
HIGHEST = 5.0  # the sigmoid is read from here down
TALLEST = 1 / (1 + np.exp(HIGHEST)) / 255  # scale of the weights
RANGE = 6.3  # exp(-6.3) is less than half a code


@script(BCT, default_opset=op)
def IntegerMaskedAttentionOrtCpu(
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
    t_scale: Tensor,
    t_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
) -> Tensor:
    """`IntegerMaskedAttention` with scores of 8 bits (t_scale, t_zero_point) and the exponential as a table.

    Rows whose maximum is less than 6.3 / t_scale steps above code 0 lose resolution.
    """
    last = op.Constant(value=LAST)
    above = op.Ceil(op.Div(op.Constant(value=f32(HIGHEST)), t_scale))
    top = op.Cast(op.Cast(op.Sub(op.Constant(value=f32(255)), above), to=INT32), to=UINT8)
    least = op.Cast(op.Cast(op.Ceil(op.Div(op.Constant(value=f32(RANGE)), t_scale)), to=INT32), to=UINT8)
    keys = op.Transpose(k, perm=[0, 1, 3, 2])
    scaled = op.Mul(q_scale, qk_scale)
    t = op.QLinearMatMul(q, scaled, q_zero_point, keys, k_scale, k_zero_point, t_scale, t_zero_point)
    kept = op.Clip(op.Mul(t, keep), op.Constant(value=u8(0)), top)
    maximum = op.Clip(op.ReduceMax(kept, last, keepdims=0), least, top)
    code = op.Add(kept, op.Unsqueeze(op.Sub(top, maximum), last))
    zero = op.Constant(value=u8(0))
    weights = MICROSOFT.QLinearSigmoid(code, t_scale, op.Constant(value=u8(255)), op.Constant(value=f32(TALLEST)), zero)
    return IntegerWeightedMean(weights, v, v_scale, v_zero_point, y_scale, y_zero_point)


def masked_attention_ort_cpu(
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
    t_scale: Array,
    t_zero_point: Array,
    y_scale: Array,
    y_zero_point: Array,
) -> Array:
    """`IntegerMaskedAttentionOrtCpu` in numpy; arguments as for `attention.masked_attention`, keep uint8, and the scale
    and zero point of the scores.
    """
    f = np.float32
    top, least = 255 - int(np.ceil(f(HIGHEST) / t_scale)), int(np.ceil(f(RANGE) / t_scale))
    scores = raw_scores(q, q_zero_point, k, k_zero_point).astype(f) * f(q_scale * qk_scale * k_scale / t_scale)
    t = np.clip(np.rint(scores) + float(t_zero_point), 0, 255).astype(np.int64)
    kept = np.minimum(t * keep, top)
    code = kept + top - np.clip(kept.max(-1, keepdims=True), least, top)
    sigmoid = 1 / (1 + np.exp((255 - code) * np.float64(t_scale)))
    weights = np.rint(sigmoid / f(TALLEST)).astype(np.int64)
    return weighted_mean(weights, v, v_scale, v_zero_point, y_scale, y_zero_point)


MASKED = Kernel(
    IntegerMaskedAttentionOrtCpu,
    masked_attention_ort_cpu,
    exact_attention,
    None,
    ("q", "k", "v"),
    {"keep": ir.DataType.UINT8, "t_zero_point": ir.DataType.UINT8},
)
"""Not among `KERNELS`: for one runtime only, and the proof cannot infer types of its operators."""
