"""Run attention between codes as ONNX Runtime's CPU provider runs it fastest."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Literal

import numpy as np
import onnx_ir as ir

from bct_onnx.base import Declined, NodePass, Outcome, Site, Stage
from bct_onnx.forms.integer_attention import Heads, mask, merging, shown
from bct_onnx.forms.kept_keys import without_equalizing
from bct_onnx.forms.ranges import SCORES_OF_NOISE
from bct_onnx.graph import functions, tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.kernels import MICROSOFT
from bct_onnx.runtime.statistics import SCORES, Scores

FINEST, COARSEST = 0.06, 0.3
"""Steps of 8-bit scores that attention is accurate with."""


@dataclasses.dataclass(frozen=True)
class LowerAttention(NodePass):
    """Give attention between codes to the runtime's operator for it, or to byte-sized integer operators.

    Why:
        On the CPU the runtime has one operator for the whole of attention, between floats. In integers it takes some
        forty: up to 128 tokens they are slower, at 512 a tenth faster.

    Before/after:
        ``IntegerMaskedAttention(heads of q, of k, of v, keep)`` becomes ``Q(Attention(DQ(q), DQ(k), DQ(v), mask))``,
        heads apart or merged as they were. ``form=integer``: ``IntegerMaskedAttentionOrtCpu``, whose exponential is a
        table of the runtime.

    Declines:
        form=integer: scores that 8 bits do not hold, or that no real data calibrated. What is declined stays in its
        portable form, which runs too.

    Options:
        form: ``float`` or ``integer``.
        noise: ``form=integer`` where only random data calibrated the scores, which real data may exceed: ``portable``
            (leave the form that needs no range of them), or ``static`` (trust it).

    Promise:
        Bounded: ``float`` is the function that IntegerAttention approximates, rounded once, so it differs by the bound
        of that (see bct_onnx/integer/attention.py) and one code; rows that see no key give a mean of all values instead
        of zeros. ``integer`` loses another half step of the scores.
    """

    name: ClassVar[str] = "lower-attention"
    stage: ClassVar[Stage] = Stage.LOWER
    promise: ClassVar[str] = "bounded"

    form: Literal["float", "integer"] = "float"
    noise: Literal["portable", "static"] = "portable"
    operators: ClassVar[tuple[str, ...]] = ("ai.bct::IntegerAttention", "ai.bct::IntegerMaskedAttention")
    imports: ClassVar[str] = MICROSOFT

    def rewrite(self, node: ir.Node, model: ir.Model) -> Outcome:
        """Lower one attention between codes."""
        scores = node.outputs[0].meta.get(SCORES)
        if self.form == "float":
            return _float(node)
        if self.noise != "static" and isinstance(scores, Scores) and scores.random:
            return Declined(node.name or "", SCORES_OF_NOISE)
        return _integer(model, node)


def _float(node: ir.Node) -> Site:
    """The standard operator, on floats in the layout that the codes had before they were split into heads."""
    q, q_scale, q_zero, k, k_scale, k_zero, v, v_scale, v_zero, *keep, factor, y_scale, y_zero = node.inputs
    assert factor is not None
    edit, last, merge = Edit(node), node, merging(node)
    q = without_equalizing(q)
    options: dict[str, Any] = {"scale": float(tensors.array(factor))}
    sides = list(map(Heads.of, (q, k, v)))
    if merge is not None and all(side.heads for side in sides):
        options |= {"q_num_heads": sides[0].heads, "kv_num_heads": sides[1].heads}
        last = merge
    else:
        sides = [Heads(q, 0), Heads(k, 0), Heads(v, 0)]
    scales = ((q_scale, q_zero), (k_scale, k_zero), (v_scale, v_zero))
    inputs = [_value(edit, side.codes, *scale) for side, scale in zip(sides, scales, strict=True)]
    kept, causal = shown(keep[0]) if keep else (None, False)
    if causal:
        options["is_causal"] = 1
    if kept is not None:
        inputs.append(mask(edit, kept))
    context = edit.op("Attention", *inputs, name="float", **options)
    context.dtype, context.shape = ir.DataType.FLOAT, last.outputs[0].shape
    quantized = edit.op("QuantizeLinear", context, y_scale, y_zero, name="codes")
    edit.replace(last.outputs[0], quantized, also=[node])
    return Site(node.name or "", (node.op_type,), "the float operator between codes")


def _value(edit: Edit, quantized: ir.Value | None, scale: ir.Value | None, zero: ir.Value | None) -> ir.Value:
    value = edit.op("DequantizeLinear", quantized, scale, zero, name="value")
    value.dtype = ir.DataType.FLOAT
    if quantized is not None:
        value.shape = quantized.shape
    return value


def _integer(model: ir.Model, node: ir.Node) -> Site | Declined:
    """Scores of 8 bits in a calibrated scale, and the exponential by the runtime's table of the sigmoid."""
    scores = node.outputs[0].meta.get(SCORES)
    if not isinstance(scores, Scores) or (scale := score_scale(scores)) is None:
        return Declined(node.name or "", "its scores are not calibrated, or 8 bits do not hold them")
    edit = Edit(node)
    values = list(node.inputs)
    if node.op_type == "IntegerAttention":
        keys = edit.op("Concat", edit.shape("one", [1]), edit.op("Shape", values[3], start=2, end=3), axis=0)
        ones: dict[str, Any] = {"value": ir.tensor([1], dtype=ir.DataType.UINT8)}
        values.insert(9, edit.op("ConstantOfShape", keys, name="keep", **ones))
    values[11:11] = [
        edit.scalar("scores_scale", scale[0], ir.DataType.FLOAT),
        edit.scalar("scores_zero_point", scale[1], ir.DataType.UINT8),
    ]
    name = "IntegerMaskedAttentionOrtCpu"
    context = edit.op(name, *values, domain=functions.use(model, name), name="codes")
    edit.replace(node.outputs[0], context)
    return Site(node.name or "", (node.op_type,), f"scores in steps of {scale[0]:.2f}, exponentials by a table")


def score_scale(scores: Scores) -> tuple[float, int] | None:
    """Scale and zero point of uint8 scores; None where 8 bits do not hold what `attention_ort_cpu` asks for.

    The row maxima lie between the least and the greatest, with a twentieth of that on either side where there is room.
    Below them there is room for what is not negligible beside them, and above for where the sigmoid is an exponential.
    """
    if not scores.known:
        return None
    spread = scores.greatest - scores.least
    return _score_scale(scores, spread / 20) or _score_scale(scores, 0.0)


def _score_scale(scores: Scores, margin: float) -> tuple[float, int] | None:
    from bct_onnx.integer.attention_ort_cpu import HIGHEST, RANGE  # slow to import, seldom needed

    lowest, highest = scores.least - margin - RANGE, scores.greatest + margin + HIGHEST
    step = max(FINEST, (highest - lowest) / 253)
    zero = max(0, math.ceil(-lowest / step))
    if zero > 255 or zero + highest / step > 255 or step > COARSEST:
        return None
    return float(np.float32(step)), zero
