"""Replace attention between codes by integer arithmetic."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Declined, NodePass, Outcome, Site, Stage
from bct_onnx.forms import attention, codes
from bct_onnx.forms.kept_keys import DROWNED, ROUNDED, Masks, kept_keys, rounds_scores
from bct_onnx.graph import functions
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.neighbours import is_read, operand, provided
from bct_onnx.graph.possible import is_mask
from bct_onnx.runtime.statistics import SCORES

COARSE = (
    "a query may be left without a key, and beside what hides them "
    f"(from {DROWNED:.2g} to {ROUNDED:.2g}) scores stand in coarse steps: use -1e4 or -1e9"
)


@dataclasses.dataclass(frozen=True)
class IntegerAttention(NodePass):
    """Replace every ``Attention`` between codes by a function of integers: both products and the softmax.

    Why:
        Scores and probabilities are the largest intermediate results of a transformer. Differences to a row's largest
        score are integers, their exponentials bytes, and dividing by their sum comes last.

    Before/after:
        ``Q(Attention(DQ(q), DQ(k), DQ(v), mask))`` becomes ``IntegerAttention(q, k, v, keep, ...)`` on codes in heads,
        one box. Grouped queries are taken along: their keys and values are repeated as codes.

    Declines:
        Attention with a cache, with a mask that is not proven to hold 0 and very negative numbers alone (a position
        bias), with one of about -1e8, or in float16, that may hide all keys of a query (scores are left in coarse steps
        there), with a cap on the scores, with scores as an output, or whose input or output is not quantized with one
        constant scale (see quantize-intermediates).

    Options:
        None.

    Promise:
        Bounded: see bct_onnx/integer/attention.py. Where a query may be left without a key by a mask of finite numbers
        (a window over padding), it gets the mean over the keys that are hidden least, as from the softmax; rows hidden
        by a boolean mask or by -inf give zeros.
    """

    name: ClassVar[str] = "integer-attention"
    stage: ClassVar[Stage] = Stage.INTEGER
    promise: ClassVar[str] = "bounded"
    operators: ClassVar[tuple[str, ...]] = ("Attention",)

    def rewriter(self, model: ir.Model, nodes: Sequence[ir.Node]) -> Callable[[ir.Node], Outcome]:
        """Layers share their masks."""
        masks: Masks = {}
        return lambda node: _replace(model, node, masks)


def _refuse(node: ir.Node) -> str:
    if any(map(is_read, node.outputs[1:])) or provided(node.inputs[4:]):
        return "it has a cache or gives its scores"
    if node.attributes.get_float("softcap", 0.0):
        return "it caps its scores"
    if not all(_is_plain(codes.read(value)) for value in node.inputs[:3]):
        return "its queries, keys or values are not quantized with one constant scale"
    if codes.quantized_to_bytes(node.outputs[0]) is None:
        return "its result is not quantized with one constant scale"
    mask = operand(node, 3)
    if mask is not None and not is_mask(mask):
        return "its mask may hold other numbers than 0 and very negative ones"
    if mask is not None and rounds_scores(mask):
        return COARSE
    if not all(
        attention.heads_of(node, index) and attention.width_of(node, index) for index in range(3)
    ) or not attention.head_size(node):
        return "its number of heads or their size is not known"
    return ""


def _is_plain(side: codes.Codes | None) -> bool:
    """Whether a value is unsigned bytes with one constant scale and zero point."""
    has_one_scale = side is not None and side.factors is None and side.zero_point is not None
    return side is not None and has_one_scale and side.codes.dtype == ir.DataType.UINT8


def _replace(model: ir.Model, node: ir.Node, masks: Masks) -> Site | Declined:
    if reason := _refuse(node):
        return Declined(node.name or node.outputs[0].name or "Attention", reason)
    quantize = codes.quantized(node.outputs[0])
    assert quantize is not None
    edit = Edit(quantize, node.name or "Attention")
    heads: list[ir.Value] = []
    inputs: list[ir.Value | None] = []
    decoding: list[ir.Node] = []
    for index, value in enumerate(node.inputs[:3]):
        side = codes.read(value)
        assert side is not None
        heads.append(attention.split_heads(edit, node, side.codes, index))
        inputs += [heads[-1], side.scale, side.zero_point]
        decoding += side.nodes
    kept = kept_keys(edit, node, heads, masks)
    factor = edit.scalar(
        "qk_scale", node.attributes.get_float("scale", 1 / math.sqrt(attention.head_size(node))), ir.DataType.FLOAT
    )
    name = "IntegerAttention"
    if kept is not None:
        name = "IntegerMaskedAttention"
        inputs[0] = kept.equalized(edit, heads[0], inputs[2])
        inputs.append(kept.keep)
    inputs += [factor, *quantize.inputs[1:3]]
    context = edit.op(name, *inputs, domain=functions.use(model, name), name="context")
    context.type = quantize.outputs[0].type
    if (scores := node.outputs[0].meta.get(SCORES)) is not None:
        context.meta[SCORES] = scores
    context = attention.join_heads(edit, node, context)
    context.type, context.shape = quantize.outputs[0].type, quantize.outputs[0].shape
    edit.replace(quantize.outputs[0], context, also=[node, *decoding])
    return Site(node.name or "", ("Attention",), "scores and probabilities in integers")
