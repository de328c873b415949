"""Spell ``Attention`` in matrix products and a softmax again."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Declined, NodePass, Outcome, Site, Stage
from bct_onnx.forms import decomposed_attention as decomposed
from bct_onnx.forms.attention import head_size, heads_of, is_merged
from bct_onnx.graph.edit import Edit

_OTHERS = ("softcap", "qk_matmul_output_mode")


@dataclasses.dataclass(frozen=True)
class SpellAttention(NodePass):
    """Spell every standard ``Attention`` in matrix products and a softmax.

    Why:
        Most accelerators have no kernel for the operator of opset 23, and many recognise its products by themselves.

    Before/after:
        ``Attention(q, k, v, mask, scale)`` becomes ``MatMul(Softmax(MatMul(q * scale, kᵀ) + mask), v)``. Heads in one
        axis are split and joined by ``Reshape`` and ``Transpose``; keys of grouped heads are repeated.

    Declines:
        A cache, more than one output, a cap on the scores, and heads of unknown number or size.

    Options:
        None.

    Promise:
        Exact up to float rounding. A row whose keys are all masked gives the mean of the values, or NaN, where
        ``Attention`` gives 0.
    """

    name: ClassVar[str] = "spell-attention"
    stage: ClassVar[Stage] = Stage.LOWER
    operators: ClassVar[tuple[str, ...]] = ("Attention",)

    def rewrite(self, node: ir.Node, model: ir.Model) -> Outcome:
        """Write one ``Attention`` out."""
        if reason := _refuse(node):
            return Declined(node.name or "Attention", reason)
        edit = Edit(node)
        q, mask = node.inputs[0], node.inputs[3] if len(node.inputs) > 3 else None
        dtype = (q.dtype if q is not None else None) or ir.DataType.FLOAT
        queries, keys, values = (decomposed.split_heads(edit, node, index) for index in range(3))
        scale = node.attributes.get_float("scale", 0.0) or 1 / math.sqrt(head_size(node))
        keys, values = (decomposed.repeat_heads(edit, node, value) for value in (keys, values))
        scaled = edit.op("Mul", queries, edit.scalar("scale", scale, dtype), name="scaled")
        products = edit.op("MatMul", scaled, edit.op("Transpose", keys, perm=[0, 1, 3, 2], name="keys"), name="scores")
        scores = products
        if mask is not None:
            scores = edit.op("Add", scores, decomposed.added_mask(edit, mask, dtype), name="masked")
        if node.attributes.get_int("is_causal", 0):
            earlier = decomposed.causal_mask(edit, products)
            scores = edit.op("Add", scores, decomposed.added_mask(edit, earlier, dtype), name="masked")
        context = edit.op("MatMul", decomposed.softmax(edit, node, scores, dtype), values, name="context")
        if is_merged(node):
            merged = edit.op("Transpose", context, perm=[0, 2, 1, 3], name="tokens")
            context = edit.op("Reshape", merged, edit.shape("merged", [0, 0, -1]), name="joined")
        edit.replace(node.outputs[0], context)
        return Site(context.name or "", ("Attention",), f"{heads_of(node, 0)} heads")


def _refuse(node: ir.Node) -> str:
    if any(value is not None for value in node.inputs[4:]) or any(value.uses() for value in node.outputs[1:]):
        return "it has a cache, or more than one output"
    if any(name in node.attributes for name in _OTHERS):
        return "a cap on the scores is not spelled out"
    known = all(value is not None for value in node.inputs[:3]) and head_size(node)
    if not (known and heads_of(node, 0) and heads_of(node, 1)):
        return "the number or size of its heads is not known"
    return ""
