"""Attention of ONNX Runtime's optimizers, to the standard ``Attention`` and what stands around it in an export."""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx_ir as ir

from bct_onnx.graph.contrib import masks
from bct_onnx.graph.contrib.lifting import Lift, Rule
from bct_onnx.graph.known import rank_of, size_of
from bct_onnx.graph.neighbours import provided

_SHARED = "its cache is a buffer that it writes into, which no standard operator of its opset does"


@dataclasses.dataclass(frozen=True)
class _Heads:
    """Queries, keys and values, all ``[B, S, N*H]`` or all ``[B, N, S, H]``, and what is in the cache."""

    query: ir.Value
    key: ir.Value
    value: ir.Value
    past: tuple[ir.Value, ir.Value] | None = None
    merged: bool = True


def attention(lift: Lift) -> list[ir.Value | None] | str:
    """``Attention``: one product gives queries, keys and values; the cache is one tensor of keys and values."""
    x, weight, bias, mask, past = map(lift.input, range(5))
    if lift.input(6) is not None or lift.number("past_present_share_buffer", 0):
        return _SHARED
    if lift.number("do_rotary", 0):
        return "it rotates queries and keys, which ONNX Runtime's CPU provider refuses"
    sizes = _widths(lift, weight)
    if x is None or weight is None or sizes is None:
        return "the number of columns of its weight is not known"
    whole = lift.plus(lift.typed("MatMul", x, weight, name="product"), bias, name="biased")
    sides = lift.parts(whole, sizes, axis=-1)
    for side, width in zip(sides, sizes, strict=True):
        side.shape = ir.Shape([*x.shape[:2], width]) if x.shape is not None and len(x.shape) == 3 else None
    cache = None if past is None else (_half(lift, past, 0), _half(lift, past, 1))
    attended = _attend(lift, _Heads(sides[0], sides[1], sides[2], cache), mask, lift.input(5))
    if isinstance(attended, str):
        return attended
    y, key, value = attended
    if not lift.used(1):
        return [y, None]
    front = lift.shape("front", [0])
    both = [lift.typed("Unsqueeze", _heads_of(lift, side, cache), front) for side in (key, value)]
    return [y, lift.typed("Concat", *both, axis=0, name="present")]


def multi_head(lift: Lift) -> list[ir.Value | None] | str:
    """``MultiHeadAttention``: queries, keys and values come apart; keys and values may be split into heads already."""
    query, key, value, bias, mask = map(lift.input, range(5))
    past = lift.input(6), lift.input(7)
    if reason := _unusual(lift, query, key, value):
        return reason
    assert query is not None and key is not None and value is not None
    apart = rank_of(key) == 4
    if bias is not None:
        widths = _bias_widths(bias, query)
        if widths is None:
            return "the sizes of its heads are not known"
        parts = lift.parts(bias, widths, axis=0)
        query = lift.plus(query, parts[0], name="query")
        if not apart:
            key = lift.plus(key, parts[1], name="biased")
            value = lift.plus(value, parts[2], name="biased")
    if apart:
        query = _split(lift, query)
    cache = (past[0], past[1]) if past[0] is not None and past[1] is not None else None
    attended = _attend(lift, _Heads(query, key, value, cache, not apart), mask, lift.input(5))
    if isinstance(attended, str):
        return attended
    y, new_key, new_value = attended
    if apart:
        return [_join(lift, y), key if lift.used(1) else None, value if lift.used(2) else None]
    if lift.used(1, 2) and cache is None:
        new_key, new_value = _split(lift, key), _split(lift, value)
    return [y, new_key, new_value]


def _unusual(lift: Lift, query: ir.Value | None, key: ir.Value | None, value: ir.Value | None) -> str:
    """Why a MultiHeadAttention is none that the CPU provider runs."""
    if lift.input(8) is not None or lift.input(9) is not None:
        return _SHARED
    if key is None or value is None:
        return "queries, keys and values are packed into one, which ONNX Runtime's CPU provider refuses"
    if rank_of(query) != 3 or rank_of(key) not in (3, 4) or rank_of(value) != rank_of(key):
        return "the number of dimensions of its queries, keys or values is not known"
    if lift.used(3):
        return "its scores are an output"
    if lift.input(6) is not None and (rank_of(key) == 4 or not lift.used(1)):
        return "it reads a cache and writes none"
    return ""


def _widths(lift: Lift, weight: ir.Value | None) -> list[int] | None:
    """Columns of queries, keys and values in one weight."""
    declared = lift.node.attributes.get_ints("qkv_hidden_sizes") or ()
    if declared:
        return list(declared)
    columns = size_of(weight, 1, rank=2)
    if columns is None:
        return None
    return [columns // 3] * 3


def _bias_widths(bias: ir.Value, query: ir.Value) -> list[int] | None:
    """Elements for queries, keys and values in one bias; keys are as wide as queries."""
    total, own = size_of(bias, 0, rank=1), size_of(query, 2)
    if total is None or own is None or total <= 2 * own:
        return None
    return [own, own, total - 2 * own]


def _attend(
    lift: Lift, heads: _Heads, mask: ir.Value | None, bias: ir.Value | None
) -> tuple[ir.Value, ir.Value, ir.Value] | str:
    """The standard operator; its result, and all keys and values, split into heads where there is a cache."""
    axis = 1 if heads.merged else 2
    count = int(lift.number("num_heads", 0))
    queries, keys = lift.size(lift.given(0), 1), lift.size(heads.key, axis)
    past = None if heads.past is None else lift.size(heads.past[0], 2)
    if past is not None:
        new = keys
        keys = lift.once(("total", id(new), id(past)), lambda: lift.op("Add", past, new, name="total"))
    sizes = masks.Sizes(lift.size(lift.given(0), 0), queries, keys, past)
    added = masks.combined(lift, mask, bias, sizes)
    if isinstance(added, str):
        return added
    if past is not None:
        heads = _with_cache(lift, heads)
    attributes: dict[str, Any] = {}
    if heads.merged:
        attributes |= {"q_num_heads": count, "kv_num_heads": count}
    if scale := lift.number("scale", 0.0):
        attributes["scale"] = scale
    if lift.number("unidirectional", 0) and past is None:
        attributes["is_causal"] = 1
    inputs = [heads.query, heads.key, heads.value, *provided([added])]
    y = lift.typed("Attention", *inputs, name="attention", **attributes)
    return (y if past is None else _join(lift, y)), heads.key, heads.value


def _with_cache(lift: Lift, heads: _Heads) -> _Heads:
    """Keys and values behind those of the cache, by ``Concat`` as in an export: ONNX Runtime 1.23 refuses the cache of
    an ``Attention`` where it is an intermediate result without any tokens."""
    assert heads.past is not None
    query, *new = (_split(lift, tokens) for tokens in (heads.query, heads.key, heads.value))
    sides = zip(heads.past, new, ("keys", "values"), strict=True)
    keys, values = (lift.typed("Concat", old, tokens, axis=2, name=name) for old, tokens, name in sides)
    return _Heads(query, keys, values, merged=False)


def _half(lift: Lift, past: ir.Value, which: int) -> ir.Value:
    """Keys or values ``[B, N, P, H]`` of a cache ``[2, B, N, P, H]``."""
    half = lift.typed("Gather", past, lift.scalar("which", which, ir.DataType.INT64), axis=0, name="past")
    half.shape = ir.Shape(past.shape[1:]) if past.shape is not None else None
    return half


def _heads_of(lift: Lift, value: ir.Value, cache: object) -> ir.Value:
    """``[B, N, S, H]``: what an operator with a cache gives; without one it is split off here."""
    if cache is not None:
        return value
    return _split(lift, value)


def _split(lift: Lift, value: ir.Value) -> ir.Value:
    """``[B, S, N*H]`` as ``[B, N, S, H]``."""
    shape = lift.shape("heads", [0, 0, int(lift.number("num_heads", 0)), -1])
    return lift.typed("Transpose", lift.typed("Reshape", value, shape, name="apart"), perm=[0, 2, 1, 3], name="heads")


def _join(lift: Lift, value: ir.Value) -> ir.Value:
    turned = lift.typed("Transpose", value, perm=[0, 2, 1, 3], name="tokens")
    return lift.typed("Reshape", turned, lift.shape("merged", [0, 0, -1]), name="joined")


RULES: dict[str, Rule] = {"Attention": attention, "MultiHeadAttention": multi_head}
