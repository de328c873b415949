"""Masks of ONNX Runtime's attention as what is added to the scores, ``[B or 1, N or 1, S, T]``.

Keys that a mask hides get a large negative number (``mask_filter_value``) and not minus infinity: a row that sees no
key at all gives a softmax over all of them, as if nothing were hidden. So these masks are numbers here, not booleans.
"""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from bct_onnx.graph.contrib.lifting import Lift
from bct_onnx.graph.known import rank_of, size_of
from bct_onnx.graph.neighbours import provided

_HIDDEN = -10000.0
"""The default of ``mask_filter_value``."""

_LOWEST = 0.9
"""Of the least number of a type: ONNX Runtime takes the least one itself for minus infinity."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The lengths ``[1]`` that a mask has to have; ``past`` is None without a cache."""

    batch: ir.Value
    queries: ir.Value
    keys: ir.Value
    past: ir.Value | None

    @property
    def key(self) -> tuple[int, ...]:
        """Masks of the same sizes may be shared."""
        return tuple(map(id, (self.batch, self.queries, self.keys, self.past)))


def combined(lift: Lift, mask: ir.Value | None, bias: ir.Value | None, sizes: Sizes) -> ir.Value | str | None:
    """One mask of all that hides keys or is added to their scores; None for none, words where it cannot be made.

    Args:
        lift: The attention.
        mask: ``[B]`` or ``[2 B]`` int32 lengths and starts, ``[B, T]``, or ``[B, S, T]`` where positive numbers keep.
        bias: ``[B or 1, N or 1, S, T]``, added to the scores.
        sizes: Of this attention.
    """
    axes = rank_of(mask)
    if mask is not None and axes not in (1, 2, 3):
        return f"its mask '{mask.name}' has {axes or 'an unknown number of'} dimensions"
    number = lift.number("mask_filter_value", _HIDDEN)
    causal = bool(lift.number("unidirectional", 0)) and sizes.past is not None
    key = (id(mask), sizes.key, number, lift.given(0).dtype)
    parts = provided([bias])
    if mask is not None and size_of(mask, 1, rank=2) != 1:  # [B, 1] and [1, 1] stand for no mask
        parts.append(lift.once(("mask", *key), lambda: _hidden(lift, mask, number, sizes)))
    if causal:
        parts.append(lift.once(("causal", *key[1:]), lambda: _later(lift, sizes)))
    if len(parts) > 1 and bias is None:
        return lift.once(("both", *key), lambda: lift.typed("Add", *parts, name="masks"))
    if len(parts) > 1:
        total = parts[0]
        for part in parts[1:]:
            total = lift.typed("Add", total, part, name="masks")
        return total
    if parts:
        return parts[0]
    return None


def _hidden(lift: Lift, mask: ir.Value, number: float, sizes: Sizes) -> ir.Value:
    """0 where a key is kept and ``number`` elsewhere, expanded to the number of queries."""
    axes = rank_of(mask)
    if axes == 1:
        kept, middle = _between(lift, mask, sizes), [1, 2]
    else:
        zero = lift.scalar("nothing", 0, mask.dtype or ir.DataType.INT32)
        kept, middle = lift.op("Greater", mask, zero, name="kept"), [1] if axes == 3 else [1, 2]
    kept = lift.op("Unsqueeze", kept, lift.shape("axes", middle), name="of_heads")
    added = _numbers(lift, kept, number, "mask")
    if axes == 3:
        return added
    one = lift.shape("one", [1])
    shape = lift.op("Concat", one, one, sizes.queries, one, axis=0, name="mask_shape")
    expanded = lift.op("Expand", added, shape, name="mask")
    expanded.type = added.type
    return expanded


def _between(lift: Lift, mask: ir.Value, sizes: Sizes) -> ir.Value:
    """``[B, T]`` booleans from the ends of rows and, behind them if they are there, their starts."""
    along = _range(lift, sizes.keys, "keys")
    ends, starts = mask, None
    if not _same(mask, lift.given(0)):
        kind = ir.tensor([0], dtype=ir.DataType.INT32)
        none = lift.op("ConstantOfShape", sizes.batch, value=kind, name="no_starts")
        both = lift.op("Concat", mask, none, axis=0, name="ends_and_starts")
        twice = lift.op("Add", sizes.batch, sizes.batch, name="twice")
        zero, axis = lift.shape("zero", [0]), lift.shape("axis", [0])
        ends = lift.op("Slice", both, zero, sizes.batch, axis, name="ends")
        starts = lift.op("Slice", both, sizes.batch, twice, axis, name="starts")
    behind = lift.shape("behind", [1])
    kept = lift.op("Less", along, lift.op("Unsqueeze", ends, behind, name="end"), name="before_end")
    if starts is None:
        return kept
    begun = lift.op("GreaterOrEqual", along, lift.op("Unsqueeze", starts, behind, name="start"), name="begun")
    return lift.op("And", kept, begun, name="between")


def _same(mask: ir.Value, x: ir.Value) -> bool:
    """Whether the mask is known to be as long as the batch."""
    if mask.shape is None or x.shape is None or not len(x.shape):
        return False
    rows, batch = mask.shape[0], x.shape[0]
    return rows == batch and (isinstance(rows, int) or rows.value is not None)


def _later(lift: Lift, sizes: Sizes) -> ir.Value:
    """``[1, 1, S, T]``: hides the keys behind each query, which stands behind all that is in the cache.

    The attribute ``is_causal`` says so where there is no cache; with one its definition has changed.
    """
    assert sizes.past is not None
    start = lift.op("Cast", sizes.past, to=ir.DataType.INT32, name="start")
    own = lift.op("Add", _range(lift, sizes.queries, "queries"), start, name="places")
    own = lift.op("Unsqueeze", own, lift.shape("behind", [1]), name="place")
    kept = lift.op("LessOrEqual", _range(lift, sizes.keys, "keys"), own, name="earlier")
    kept = lift.op("Unsqueeze", kept, lift.shape("axes", [0, 1]), name="of_all")
    return _numbers(lift, kept, -float("inf"), "causal")


def _numbers(lift: Lift, kept: ir.Value, number: float, name: str) -> ir.Value:
    dtype = lift.given(0).dtype or ir.DataType.FLOAT
    number = max(number, _LOWEST * float(dtype.min))
    added = lift.op("Where", kept, lift.scalar("shown", 0.0, dtype), lift.scalar("hidden", number, dtype), name=name)
    added.type = ir.TensorType(dtype)
    return added


def _range(lift: Lift, size: ir.Value, name: str) -> ir.Value:
    """``[n]`` int32 from 0 on."""

    def make() -> ir.Value:
        end = lift.op("Cast", lift.op("Squeeze", size, name="number"), to=ir.DataType.INT32, name="count")
        return lift.count_to(end, ir.DataType.INT32, name)

    return lift.once(("range", id(size)), make)
