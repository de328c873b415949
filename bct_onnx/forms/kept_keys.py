"""Which keys the mask of a standard ``Attention`` keeps, and what a query gets that keeps none.

Masks of finite numbers hide by being far below the others of their row: where a row holds nothing else, its softmax
sees the keys that are hidden least. A window or a triangle over padding on the other side gives such rows. Their
scores survive beside a mask of -1e4; beside -1e9 they are less than a step of float32, and every key weighs the same.
Between the two the sum rounds scores to steps that the softmax shows, which no integers repeat: `rounds_scores`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx_ir as ir

from bct_onnx.graph import operators
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.lengths import COUNTING
from bct_onnx.graph.neighbours import made_by, operand, provided, reached, sources
from bct_onnx.graph.possible import possible_values

HIDING = -1e3
"""A score that is this much below another has no probability beside it."""

WIDER = 1 + 2.0**-20
"""Large masks are compared by their ratio: a difference of `HIDING` is less than a step of theirs."""

LOWEST = 0.95
"""Of the lowest number of a type: ONNX Runtime takes that for -inf, and a row that holds nothing else gives zeros."""

ROUNDED, DROWNED = -(2.0**21), -(2.0**28)
"""From the first mask on a step of float32 is a quarter or more; from the second on 32: scores up to 16 are nothing."""

_SAME_PLACE = operators.named("arithmetic", "test", "choice", "cast", "repeat")


@dataclasses.dataclass(frozen=True)
class KeptKeys:
    """What an integer attention asks of its mask.

    Attributes:
        keep: uint8, 1 where a key counts and 0 where it is masked, [batch or 1, heads or 1, queries or 1, keys].
        drowned: Boolean, [batch or 1, heads or 1, queries, 1]: queries all of whose scores are lost beside their mask,
            so that the keys they keep weigh the same; None where there can be none.
    """

    keep: ir.Value
    drowned: ir.Value | None = None

    def equalized(self, edit: Edit, queries: ir.Value, zero_point: ir.Value | None) -> ir.Value:
        """The codes of the queries in heads, those that are drowned as zeros: then all their scores are equal."""
        if self.drowned is None:
            return queries
        return edit.op("Where", self.drowned, zero_point, queries, name="equalized")


Masks = dict[tuple[int, ...], KeptKeys]
"""What `kept_keys` has made, for all layers of one graph."""


def kept_keys(edit: Edit, node: ir.Node, heads: list[ir.Value], masks: Masks) -> KeptKeys | None:
    """Which keys count, made once for all layers; None where every key counts."""
    mask = operand(node, 3)
    causal = bool(node.attributes.get_int("is_causal", 0))
    if mask is None and not causal:
        return None
    key = (id(edit.graph), id(mask), id(node) if causal else 0)
    if key not in masks:
        masks[key] = _kept_keys(edit, mask, heads, causal)
    return masks[key]


def without_equalizing(queries: ir.Value | None) -> ir.Value | None:
    """The codes that `KeptKeys.equalized` took, for an attention between floats, which adds the mask itself."""
    chosen = made_by(queries, "Where")
    if chosen is None:
        return queries
    return chosen.inputs[2]


def _kept_keys(edit: Edit, mask: ir.Value | None, heads: list[ir.Value], causal: bool) -> KeptKeys:
    lower = _causal(edit, heads) if causal else None
    if mask is None:
        assert lower is not None
        return KeptKeys(lower)
    producer = mask.producer()  # of an input there is none: at the top, where every attention can use it
    first = Edit(producer or edit.graph[0], mask.name or "mask", after=producer is not None)
    if lower is not None:
        return KeptKeys(edit.op("Mul", _above(first, mask), lower, name="keep"))
    if mask.dtype != ir.DataType.FLOAT or not may_hide_a_row(mask):
        return KeptKeys(_above(first, mask))
    return _least_hidden(first, mask)


def _causal(edit: Edit, heads: list[ir.Value]) -> ir.Value:
    """Ones on and below the diagonal, [queries, keys]."""
    sizes = [edit.op("Shape", part, start=2, end=3, name="length") for part in heads[:2]]
    value: dict[str, Any] = {"value": ir.tensor([1], dtype=ir.DataType.INT64)}  # ONNX Runtime has no Trilu of uint8
    ones = edit.op("ConstantOfShape", edit.op("Concat", *sizes, axis=0, name="shape"), name="ones", **value)
    return edit.op("Cast", edit.op("Trilu", ones, upper=0, name="lower"), to=ir.DataType.UINT8, name="causal")


def _above(edit: Edit, mask: ir.Value, limit: ir.Value | None = None) -> ir.Value:
    if mask.dtype == ir.DataType.BOOL:
        return edit.op("Cast", mask, to=ir.DataType.UINT8, name="keep")
    limit = limit or edit.scalar("masked", HIDING, mask.dtype or ir.DataType.FLOAT)
    return edit.op("Cast", edit.op("Greater", mask, limit, name="kept"), to=ir.DataType.UINT8, name="keep")


def _least_hidden(edit: Edit, mask: ir.Value) -> KeptKeys:
    """Keys that are hidden no more than others of their row: those that are not hidden, where there are any."""
    number = ir.DataType.FLOAT
    greatest = edit.op("ReduceMax", mask, edit.shape("keys", [-1]), keepdims=1, name="greatest")
    wider = edit.op("Mul", greatest, edit.scalar("wider", WIDER, number), name="wider")
    below = edit.op("Add", wider, edit.scalar("masked", HIDING, number), name="below")
    limit = edit.op("Max", below, edit.scalar("lowest", LOWEST * float(number.min), number), name="limit")
    drowned = edit.op("LessOrEqual", greatest, edit.scalar("drowned", DROWNED, number), name="drowned")
    return KeptKeys(_above(edit, mask, limit), drowned)


def rounds_scores(mask: ir.Value) -> bool:
    """Whether all that is left to a query may be scores in coarse steps, as float16 has them beside any mask."""
    if mask.dtype == ir.DataType.BOOL or not may_hide_a_row(mask):
        return False
    coarse = (DROWNED < number <= ROUNDED for number in possible_values(mask) or ())
    return mask.dtype == ir.DataType.FLOAT16 or any(coarse)


def may_hide_a_row(mask: ir.Value) -> bool:
    """Whether a query may be left without a key: which are hidden differs by query, and with what the model is given.

    A mask of padding alone hides the same keys from all; a triangle or a window alone shows each token to itself.
    """
    return _differs_by_query(mask) and is_given(mask)


def _differs_by_query(mask: ir.Value) -> bool:
    """What is not known to be the same for every query differs."""
    if mask.shape is not None and (mask.shape.rank() < 2 or mask.shape[-2] == 1):
        return False
    node = mask.producer()
    if node is None or node.domain or node.op_type not in _SAME_PLACE:
        return True
    repeated = node.op_type in operators.named("repeat")
    return any(map(_differs_by_query, provided(node.inputs[:1] if repeated else node.inputs)))


def is_given(mask: ir.Value) -> bool:
    """Whether numbers of an input of the graph, not its sizes alone, decide what ``mask`` holds."""
    return any(map(ir.Value.is_graph_input, reached([mask], _numbers)))


def _numbers(value: ir.Value) -> list[ir.Value]:
    """What a value is computed from, sizes apart."""
    if made_by(value, *COUNTING):
        return []
    return sources(value)
