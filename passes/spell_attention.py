"""Spell ``Attention`` in matrix products and a softmax again."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from bct_onnx.graph.edit import Edit

_OTHERS = ("softcap", "qk_matmul_output_mode")


@dataclasses.dataclass(frozen=True)
class SpellAttention(Pass):
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

    def apply(self, model: ir.Model) -> Applied:
        """Rewrite every Attention, subgraphs included."""
        nodes = [node for node in model.graph.all_nodes() if node.op_type == "Attention" and not node.domain]
        return Applied.of(model, [_spell(node) for node in nodes])


def _spell(node: ir.Node) -> Site | Declined:
    name = node.name or "Attention"
    if reason := _refuse(node):
        return Declined(name, reason)
    edit = Edit(node)
    q, k, v, *rest = node.inputs
    heads = [node.attributes.get_int(f"{one}_num_heads", 0) for one in ("q", "kv", "kv")]
    split = [_split(edit, value, count) for value, count in zip((q, k, v), heads, strict=True)]
    width = _width(q, heads[0])
    assert width is not None
    scale = node.attributes.get_float("scale", 0.0) or 1 / math.sqrt(width)
    groups = _heads(q, heads[0]) // max(_heads(k, heads[1]), 1)
    keys, values = (_repeat(edit, one, groups) for one in split[1:])
    scaled = edit.op("Mul", split[0], edit.scalar("scale", scale, _dtype(q)), name="scaled")
    scores = edit.op("MatMul", scaled, edit.op("Transpose", keys, perm=[0, 1, 3, 2], name="keys"), name="scores")
    for mask in (*rest[:1], *_causal(edit, node, scores)):
        if mask is not None:
            scores = edit.op("Add", scores, _mask(edit, mask, _dtype(q)), name="masked")
    context = edit.op("MatMul", _softmax(edit, node, scores, _dtype(q)), values, name="context")
    if heads[0]:
        merged = edit.op("Transpose", context, perm=[0, 2, 1, 3], name="tokens")
        context = edit.op("Reshape", merged, edit.shape("merged", [0, 0, -1]), name="joined")
    edit.replace(node.outputs[0], context)
    return Site(context.name or "", ("Attention",), f"{_heads(q, heads[0])} heads")


def _refuse(node: ir.Node) -> str:
    q, k, v = node.inputs[:3]
    if any(value is not None for value in node.inputs[4:]) or any(value.uses() for value in node.outputs[1:]):
        return "it has a cache, or more than one output"
    if any(name in node.attributes for name in _OTHERS):
        return "a cap on the scores is not spelled out"
    heads = node.attributes.get_int("q_num_heads", 0), node.attributes.get_int("kv_num_heads", 0)
    known = q is not None and k is not None and v is not None and _width(q, heads[0]) and _heads(q, heads[0])
    return "" if known and _heads(k, heads[1]) else "the number or size of its heads is not known"


def _split(edit: Edit, value: ir.Value | None, heads: int) -> ir.Value:
    """``[B, S, H*D]`` as ``[B, H, S, D]``; what has four axes stays."""
    assert value is not None
    if not heads:
        return value
    apart = edit.op("Reshape", value, edit.shape("heads", [0, 0, heads, -1]), name="apart")
    return edit.op("Transpose", apart, perm=[0, 2, 1, 3], name="heads")


def _repeat(edit: Edit, value: ir.Value, groups: int) -> ir.Value:
    """Each head of ``[B, H, S, D]`` as often as queries share it."""
    if groups == 1:
        return value
    axes = edit.op("Unsqueeze", value, edit.shape("axis", [2]), name="grouped")
    repeated = edit.op("Tile", axes, edit.shape("times", [1, 1, groups, 1, 1]), name="repeated")
    around = edit.op("Shape", value, start=2, name="around")
    shape = edit.op("Concat", edit.shape("flat", [0, -1]), around, axis=0, name="shape")
    return edit.op("Reshape", repeated, shape, name="every_head")


def _mask(edit: Edit, mask: ir.Value, kind: ir.DataType) -> ir.Value:
    """A boolean mask as what is added: 0 where it is true, the least number elsewhere."""
    if mask.dtype != ir.DataType.BOOL:
        return mask
    least = float(np.finfo(kind.numpy()).min)
    return edit.op("Where", mask, edit.scalar("none", 0.0, kind), edit.scalar("least", least, kind), name="mask")


def _causal(edit: Edit, node: ir.Node, scores: ir.Value) -> tuple[ir.Value, ...]:
    """A mask that is true where a key does not come after the query, if the attention is causal."""
    if not node.attributes.get_int("is_causal", 0):
        return ()
    shape = edit.op("Shape", scores, start=2, name="sizes")
    ones = edit.op("ConstantOfShape", shape, value=ir.tensor([1.0], dtype=ir.DataType.FLOAT), name="ones")
    earlier = edit.op("Cast", edit.op("Trilu", ones, upper=0, name="lower"), to=ir.DataType.BOOL, name="earlier")
    earlier.dtype = ir.DataType.BOOL
    return (earlier,)


def _softmax(edit: Edit, node: ir.Node, scores: ir.Value, kind: ir.DataType) -> ir.Value:
    """The softmax over the keys, in the precision that the attention asks for."""
    precision = ir.DataType(node.attributes.get_int("softmax_precision", kind.value))
    if precision == kind:
        return edit.op("Softmax", scores, axis=-1)
    wide = edit.op("Cast", scores, to=precision, name="wide")
    return edit.op("Cast", edit.op("Softmax", wide, axis=-1), to=kind, name="typed")


def _dtype(value: ir.Value | None) -> ir.DataType:
    return (value.dtype if value is not None else None) or ir.DataType.FLOAT


def _heads(value: ir.Value | None, heads: int) -> int:
    """The number of heads: as stated for three axes, else the second axis; 0 if it is not known."""
    shape = value.shape if value is not None else None
    count = heads or (shape[1] if shape is not None and len(shape) == 4 else 0)
    return count if isinstance(count, int) else 0


def _width(value: ir.Value | None, heads: int) -> int | None:
    last = value.shape[-1] if value is not None and value.shape is not None and len(value.shape) else None
    return last // (heads or 1) if isinstance(last, int) else None
