"""Replace attention between codes by integer arithmetic."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from bct_onnx.forms import codes
from bct_onnx.graph import functions
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.possible import is_mask
from bct_onnx.runtime.statistics import SCORES

_Masks = dict[tuple[int, ...], ir.Value]


@dataclasses.dataclass(frozen=True)
class IntegerAttention(Pass):
    """Replace every ``Attention`` between codes by a function of integers: both products and the softmax.

    Why:
        Scores and probabilities are the largest intermediate results of a transformer. Differences to a row's largest
        score are integers, their exponentials bytes, and dividing by their sum comes last.

    Before/after:
        ``Q(Attention(DQ(q), DQ(k), DQ(v), mask))`` becomes ``IntegerAttention(q, k, v, keep, ...)`` on codes in heads,
        one box. Grouped queries are taken along: their keys and values are repeated as codes.

    Declines:
        Attention with a cache, with a mask that is not proven to hold 0 and very negative numbers alone (a position
        bias), with a cap on the scores, with scores as an output, or whose input or output is not quantized with one
        constant scale (see quantize-intermediates).

    Options:
        None.

    Promise:
        Bounded: see bct_onnx/integer/attention.py. Rows of which every key is masked give zeros.
    """

    name: ClassVar[str] = "integer-attention"
    stage: ClassVar[Stage] = Stage.INTEGER
    promise: ClassVar[str] = "bounded"

    def apply(self, model: ir.Model) -> Applied:
        """Look at every ``Attention``, subgraphs included."""
        found: list[Site | Declined] = []
        masks: _Masks = {}
        for node in list(model.graph.all_nodes()):
            if node.op_type == "Attention" and not node.domain:
                reason = _refuse(node)
                if reason:
                    found.append(Declined(node.name or node.outputs[0].name or "Attention", reason))
                else:
                    found.append(_replace(model, node, masks))
        return Applied.of(model, found)


def _refuse(node: ir.Node) -> str:
    more = any(value.uses() or value.is_graph_output() for value in node.outputs[1:])
    if more or any(value is not None for value in node.inputs[4:]):
        return "it has a cache or gives its scores"
    if node.attributes.get_float("softcap", 0.0):
        return "it caps its scores"
    found = [codes.read(value) for value in node.inputs[:3]]
    if any(
        one is None or one.codes.dtype != ir.DataType.UINT8 or one.factors is not None or one.zero_point is None
        for one in found
    ):
        return "its queries, keys or values are not quantized with one constant scale"
    if codes.quantized_to_bytes(node.outputs[0]) is None:
        return "its result is not quantized with one constant scale"
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    if mask is not None and not is_mask(mask):
        return "its mask may hold other numbers than 0 and very negative ones"
    if not all(_heads(node, index) and _width(node, index) for index in range(3)) or not _size(node):
        return "its number of heads or their size is not known"
    return ""


def _replace(model: ir.Model, node: ir.Node, masks: _Masks) -> Site:
    quantize = codes.quantized(node.outputs[0])
    sides = [codes.read(value) for value in node.inputs[:3]]
    assert quantize is not None
    edit = Edit(quantize, node.name or "Attention")
    groups = (_heads(node, 0) or 1) // (_heads(node, 1) or 1)
    heads: list[ir.Value] = []
    scales: list[tuple[ir.Value, ir.Value | None]] = []
    for index, side in enumerate(sides):
        assert side is not None
        parts = _split(edit, node, side.codes, index)
        heads.append(parts if groups == 1 or index == 0 else _repeat(edit, parts, groups))
        scales.append((side.scale, side.zero_point))
    keep = _keep(edit, node, heads, masks)
    factor = edit.scalar("qk_scale", node.attributes.get_float("scale", 1 / math.sqrt(_size(node))), ir.DataType.FLOAT)
    name = "IntegerAttention" if keep is None else "IntegerMaskedAttention"
    shown = () if keep is None else (keep,)
    inputs = [each for part, scale in zip(heads, scales, strict=True) for each in (part, *scale)]
    inputs += [*shown, factor, *quantize.inputs[1:3]]
    context = edit.op(name, *inputs, domain=functions.use(model, name), name="context")
    context.type = quantize.outputs[0].type
    if (scores := node.outputs[0].meta.get(SCORES)) is not None:
        context.meta[SCORES] = scores
    if _merged(node):
        rows = edit.op("Transpose", context, perm=[0, 2, 1, 3], name="tokens")
        context = edit.op("Reshape", rows, edit.shape("merged", [0, 0, _width(node, 2) * groups]), name="merged")
    context.type, context.shape = quantize.outputs[0].type, quantize.outputs[0].shape
    used = [each for side in sides if side is not None for each in side.nodes]
    edit.replace(quantize.outputs[0], context, also=[node, *used])
    return Site(node.name or "", ("Attention",), "scores and probabilities in integers")


def _merged(node: ir.Node) -> bool:
    """Whether heads stand beside each other in the last axis."""
    return "q_num_heads" in node.attributes


def _heads(node: ir.Node, index: int) -> int | None:
    """Number of heads of the queries (0) or of keys and values (1, 2)."""
    if _merged(node):
        return node.attributes.get_int("kv_num_heads" if index else "q_num_heads", 0) or None
    value = node.inputs[index]
    shape = value.shape if value is not None else None
    heads = shape[1] if shape is not None and shape.rank() == 4 else None
    return heads if isinstance(heads, int) else None


def _width(node: ir.Node, index: int) -> int:
    """Length of the last axis of queries, keys or values; 0 where it is not known."""
    value = node.inputs[index]
    last = value.shape[-1] if value is not None and value.shape else None
    return last if isinstance(last, int) else 0


def _size(node: ir.Node) -> int:
    """Length of a head of the queries; 0 where it is not known."""
    return _width(node, 0) // ((_heads(node, 0) or 1) if _merged(node) else 1)


def _split(edit: Edit, node: ir.Node, value: ir.Value, index: int) -> ir.Value:
    """Codes as [batch, heads, sequence, size]."""
    if not _merged(node):
        return value
    heads = _heads(node, index) or 1
    shape = edit.shape("heads", [0, 0, heads, _width(node, index) // heads])
    return edit.op("Transpose", edit.op("Reshape", value, shape, name="heads"), perm=[0, 2, 1, 3], name="by_head")


def _repeat(edit: Edit, value: ir.Value, groups: int) -> ir.Value:
    """Each head of [B, H, S, D] ``groups`` times in a row."""
    wide = edit.op("Unsqueeze", value, edit.shape("axis", [2]), name="grouped")
    many = edit.op("Expand", wide, edit.shape("groups", [1, 1, groups, 1, 1]), name="repeated")
    heads = edit.op("Shape", value, start=0, end=1, name="batch")
    shape = edit.op("Concat", heads, edit.shape("all", [-1]), edit.op("Shape", value, start=2, end=4), axis=0)
    return edit.op("Reshape", many, shape, name="queries_heads")


def _keep(edit: Edit, node: ir.Node, heads: list[ir.Value], masks: _Masks) -> ir.Value | None:
    """uint8, 1 where a key counts and 0 where it is masked, [batch, 1, queries, keys], made once for all layers; None
    where every key counts."""
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    causal = bool(node.attributes.get_int("is_causal", 0))
    if mask is None and not causal:
        return None
    key = (id(edit.graph), id(mask), id(node) if causal else 0)
    if key not in masks:
        keep = None
        if mask is not None:
            producer = mask.producer()  # of an input there is none: at the top, where every attention can use it
            keep = _kept(Edit(producer or edit.graph[0], mask.name or "mask", after=producer is not None), mask)
        if causal:
            lower = _causal(edit, heads)
            keep = lower if keep is None else edit.op("Mul", keep, lower, name="keep")
        assert keep is not None
        masks[key] = keep
    return masks[key]


def _causal(edit: Edit, heads: list[ir.Value]) -> ir.Value:
    """Ones on and below the diagonal, [queries, keys]."""
    sizes = [edit.op("Shape", value, start=2, end=3, name="length") for value in heads[:2]]
    one: dict[str, Any] = {"value": ir.tensor([1], dtype=ir.DataType.INT64)}  # Trilu of uint8 is not in ONNX Runtime
    ones = edit.op("ConstantOfShape", edit.op("Concat", *sizes, axis=0, name="shape"), name="ones", **one)
    return edit.op("Cast", edit.op("Trilu", ones, upper=0, name="lower"), to=ir.DataType.UINT8, name="causal")


def _kept(edit: Edit, mask: ir.Value) -> ir.Value:
    if mask.dtype == ir.DataType.BOOL:
        return edit.op("Cast", mask, to=ir.DataType.UINT8, name="keep")
    limit = edit.scalar("masked", -1e3, mask.dtype or ir.DataType.FLOAT)
    return edit.op("Cast", edit.op("Greater", mask, limit, name="kept"), to=ir.DataType.UINT8, name="keep")
