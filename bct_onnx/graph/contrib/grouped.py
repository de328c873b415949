"""``GroupQueryAttention`` of onnxruntime-genai, to the standard ``Attention`` and what it does with its cache.

The cache ``[B, heads, P, size]`` may be longer than what is in it. Of a row that ends at L = ``seqlens_k`` + 1 the
first L - S positions are in it, none where S is ``total_sequence_length``; new ones go behind these. What is given back
is as long as the longer of P and the total, with zeros behind the new ones.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx_ir as ir

from bct_onnx.graph.contrib.lifting import Lift, Rule
from bct_onnx.graph.known import size_of

_UNUSUAL = {
    9: "positions",
    11: "a sink for each head",
    12: "a quantized cache",
    14: "normalized queries",
    16: "lengths",
}
"""Inputs of forms that are not lifted."""

_INT = ir.DataType.INT64


@dataclasses.dataclass(frozen=True)
class _Places:
    """Where things are, as int64: ``[B]`` how much is in the cache, ``[B]`` where rows end, ``[1]`` lengths."""

    filled: ir.Value
    ends: ir.Value
    tokens: ir.Value
    total: ir.Value


def grouped(lift: Lift) -> list[ir.Value | None] | str:
    """Rotate, write into the cache, attend to what is in it."""
    if reason := _unusual(lift):
        return reason
    heads, shared = int(lift.number("num_heads", 0)), int(lift.number("kv_num_heads", 0))
    query, key, value = _apart(lift, heads, shared)
    places = _places(lift)
    if lift.number("do_rotary", 0):
        query, key = _rotated(lift, query, heads, places), _rotated(lift, key, shared, places)
    keys, values = _split(lift, key, shared), _split(lift, value, shared)
    present = [_written(lift, 3, keys, places), _written(lift, 4, values, places)]
    zero, axis = lift.shape("zero", [0]), lift.shape("axis", [2])
    seen = [lift.typed("Slice", cache, zero, places.total, axis, name="seen") for cache in present]
    options: dict[str, Any] = {name: lift.number(name, 0.0) for name in ("scale", "softcap") if lift.number(name, 0.0)}
    y = lift.typed("Attention", _split(lift, query, heads), *seen, _mask(lift, places), name="attention", **options)
    merged = lift.typed("Transpose", y, perm=[0, 2, 1, 3], name="tokens")
    return [lift.typed("Reshape", merged, lift.shape("merged", [0, 0, -1]), name="joined"), *present]


def _unusual(lift: Lift) -> str:
    """Why it is not lifted."""
    for index, feature in _UNUSUAL.items():
        if lift.input(index) is not None:
            return f"it has {feature}"
    if lift.number("smooth_softmax", 0) > 0 or not lift.number("causal", 1) or lift.used(3):
        return "its softmax has one more place, it is not causal, or its scores are an output"
    if lift.number("kv_cache_bit_width", 0) or lift.number("sliding_window_cache", 0):
        return "its cache is quantized, or slides"
    if lift.input(10) is not None and lift.number("softcap", 0.0):
        return "its scores are capped and added to"
    if size_of(lift.given(0), 2, rank=3) is None:
        return "its width is not known"
    return ""


def _apart(lift: Lift, heads: int, shared: int) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Queries, keys and values ``[B, S, heads * size]``, which may be packed into one."""
    query, key, value = lift.given(0), lift.input(1), lift.input(2)
    if key is not None and value is not None:
        return query, key, value
    assert query.shape is not None and isinstance(query.shape[2], int)
    size = query.shape[2] // (heads + 2 * shared)
    parts = lift.parts(query, [heads * size, shared * size, shared * size], axis=-1)
    return parts[0], parts[1], parts[2]


def _places(lift: Lift) -> _Places:
    """Read from the lengths that it is given."""
    tokens = lift.size(lift.given(0), 1)
    lengths, total = lift.given(5), lift.given(6)
    key = (id(lengths), id(total), id(tokens))
    one, none = lift.shape("one", [1]), lift.shape("none", [0])
    whole = lift.once(
        ("total", *key),
        lambda: lift.op("Reshape", lift.op("Cast", total, to=_INT), lift.shape("flat", [1]), name="total"),
    )

    def ends() -> ir.Value:
        last = lift.op("Reshape", lift.op("Cast", lengths, to=_INT), lift.shape("flat", [-1]), name="last")
        return lift.op("Add", last, one, name="ends")

    def filled() -> ir.Value:
        before = lift.op("Sub", end, tokens, name="before")
        return lift.op("Where", lift.op("Equal", tokens, whole, name="first"), none, before, name="filled")

    end = lift.once(("ends", *key), ends)
    return _Places(lift.once(("filled", *key), filled), end, tokens, whole)


def _along(lift: Lift, size: ir.Value, name: str) -> ir.Value:
    """``[n]`` int64 from 0 on."""

    def make() -> ir.Value:
        return lift.count_to(lift.op("Squeeze", size, name="count"), _INT, name)

    return lift.once(("range", _INT, id(size)), make)


def _own(lift: Lift, places: _Places) -> ir.Value:
    """``[B, S]``: the positions of the new tokens."""
    start = lift.op("Unsqueeze", places.filled, lift.shape("last", [1]), name="start")
    return lift.once(("own", id(places.filled)), lambda: lift.op("Add", start, _along(lift, places.tokens, "tokens")))


def _rotated(lift: Lift, x: ir.Value, heads: int, places: _Places) -> ir.Value:
    cosines, sines = lift.given(7), lift.given(8)
    options = {"num_heads": heads, "interleaved": int(lift.number("rotary_interleaved", 0))}
    width, half = size_of(x, 2), size_of(cosines, 1)
    if width is not None and half is not None and 2 * half < width // heads:
        options["rotary_embedding_dim"] = 2 * half
    return lift.typed("RotaryEmbedding", x, cosines, sines, _own(lift, places), name="rotated", **options)


def _split(lift: Lift, x: ir.Value, heads: int) -> ir.Value:
    """``[B, S, heads * size]`` as ``[B, heads, S, size]``."""
    apart = lift.typed("Reshape", x, lift.shape("heads", [0, 0, heads, -1]), name="apart")
    return lift.typed("Transpose", apart, perm=[0, 2, 1, 3], name="heads")


def _written(lift: Lift, index: int, new: ir.Value, places: _Places) -> ir.Value:
    """The cache with the new tokens in it: each place takes one of the old, the new, and a zero behind them."""
    past = lift.input(index)
    nothing = lift.scalar("nothing", 0.0, lift.given(0).dtype or ir.DataType.FLOAT)
    pads = lift.shape("pads", [0, 0, 0, 0, 0, 0, 1, 0])
    ended = lift.typed("Pad", new, pads, nothing, name="with_zero")
    source = ended if past is None else lift.typed("Concat", past, ended, axis=2, name="source")
    length = lift.shape("none", [0]) if past is None else lift.size(past, 2)
    which = lift.once(("which", id(length), id(places.filled)), lambda: _which(lift, length, places))
    around = lift.op("Shape", new, name="around")
    ends = [lift.op("Gather", around, lift.shape(f"axis_{axis}", [axis]), axis=0, name="size") for axis in (1, 3)]
    one = lift.shape("one", [1])
    shape = lift.op("Concat", one, ends[0], one, ends[1], axis=0, name="shape")
    return lift.typed("GatherElements", source, lift.op("Expand", which, shape, name="every"), axis=2, name="present")


def _which(lift: Lift, past: ir.Value, places: _Places) -> ir.Value:
    """``[B, 1, T, 1]``: where in the old cache, the new tokens and the zero behind them each place looks."""
    along = _along(lift, lift.op("Max", past, places.total, name="length"), "places")
    start = lift.op("Unsqueeze", places.filled, lift.shape("last", [1]), name="start")
    new = lift.op("Sub", along, start, name="since")  # negative for what is in the cache
    moved = lift.op("Add", lift.op("Min", new, places.tokens, name="at_most"), past, name="behind")
    old = lift.op("Less", new, lift.shape("zero", [0]), name="old")
    return lift.op("Unsqueeze", lift.op("Where", old, along, moved), lift.shape("axes", [1, 3]), name="which")


def _mask(lift: Lift, places: _Places) -> ir.Value:
    """``[B, 1, S, T]``: keys up to each query, within its row and its window; numbers where some are added."""
    window, bias = int(lift.number("local_window_size", -1)), lift.input(10)

    def make() -> ir.Value:
        own = lift.op("Unsqueeze", _own(lift, places), lift.shape("axes", [1, 3]), name="own")
        along = _along(lift, places.total, "keys")
        ends = lift.op("Unsqueeze", places.ends, lift.shape("behind", [1, 2, 3]), name="end")
        kept = lift.op("LessOrEqual", along, own, name="earlier")
        kept = lift.op("And", kept, lift.op("Less", along, ends, name="within"), name="kept")
        if window > 0:
            oldest = lift.op("Sub", own, lift.shape("window", [window]), name="oldest")
            kept = lift.op("And", kept, lift.op("Greater", along, oldest, name="near"), name="near_enough")
        return kept

    kept = lift.once(("grouped mask", id(places.filled), window), make)
    if bias is None:
        return kept
    dtype = lift.given(0).dtype or ir.DataType.FLOAT
    hidden = lift.scalar("hidden", 0.9 * float(dtype.min), dtype)
    return lift.op("Where", kept, bias, hidden, name="mask")


RULES: dict[str, Rule] = {"GroupQueryAttention": grouped}
