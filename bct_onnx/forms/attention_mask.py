"""One mask from all that is done to the scores of an attention before its softmax."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import onnx_ir as ir

from bct_onnx.graph.edit import Edit
from bct_onnx.graph.known import type_of
from bct_onnx.graph.recognise import Attention, Mask, split_of

Made = dict[tuple[object, ...], ir.Value]
"""The masks made so far, for all layers."""

_Size = int | ir.SymbolicDim | None


def combined_mask(edit: Edit, region: Attention, key: ir.Value, masks: Made) -> ir.Value:
    """One mask ``[..., Sq, Skv]`` from all of them, made once for all layers that are known to agree."""
    query, dtype = region.query, region.query.dtype or ir.DataType.FLOAT
    assert query.shape is not None and key.shape is not None
    sizes = (query.shape[2], key.shape[2])
    known = all(isinstance(size, int) or size.value is not None for size in sizes)
    whole = (edit.graph, dtype, region.masks, sizes)
    if known and whole in masks:
        return masks[whole]
    parts = (edit.graph, dtype, region.masks)
    mask = masks.get(parts) or masks.setdefault(parts, _combined(edit, region.masks, dtype))
    shape = list(mask.shape) if mask.shape is not None else []
    if not known or len(shape) < 2 or tuple(shape[-2:]) != sizes:
        single = edit.shape("one", [1])
        lengths = (_length(edit, query, "queries"), _length(edit, key, "keys"))
        target = edit.op("Concat", single, single, *lengths, axis=0, name="mask_shape")
        leading = [1, 1, *shape][-4:-2] if shape else [None, None]
        mask = typed(edit.op("Expand", mask, target), mask.dtype, [*leading, *sizes])
    return masks.setdefault(whole, mask)


def _length(edit: Edit, value: ir.Value, name: str) -> ir.Value:
    """The length of axis 2, measured before the split into heads if there is one, so that that may go."""
    axis = 2
    if (split := split_of(value)) is not None:
        value, axis = split.source, 1
    return edit.op("Shape", value, start=axis, end=axis + 1, name=name)


def _combined(edit: Edit, masks: tuple[Mask, ...], dtype: ir.DataType) -> ir.Value:
    """Boolean if the only mask replaces scores by -inf, else the sum of what is added to the scores.

    A sum stays above the lowest number: ONNX Runtime takes that for -inf and gives zeros where every key has it, while
    the softmax gives the mean of the values.
    """
    if [mask.fill for mask in masks] == [-math.inf]:
        (mask,) = masks
        if mask.keep:
            return mask.value
        return typed(edit.op("Not", mask.value), mask.value.dtype, mask.value.shape)
    low = 0.9 * float(dtype.min)
    total, *terms = [_term(edit, mask, index, dtype, low) for index, mask in enumerate(masks)]
    for index, term in enumerate(terms):
        total = typed(edit.op("Add", total, term, name=f"masks_{index}"), dtype, _broadcast(total, term))
    if len(masks) > 1 or masks[0].fill is None:
        if not any(map(Mask.infinite, masks)):
            return typed(edit.op("Max", total, edit.scalar("low", low, dtype)), dtype, total.shape)
        return total
    return total


def _broadcast(first: ir.Value, second: ir.Value) -> list[_Size] | None:
    """The shape of a sum, as far as it is known."""
    if first.shape is None or second.shape is None:
        return None
    sizes: list[_Size] = []
    for size, other in itertools.zip_longest(reversed(list(first.shape)), reversed(list(second.shape)), fillvalue=1):
        if other in (1, size):
            sizes.append(size)
        else:
            sizes.append(other if size == 1 else None)
    return sizes[::-1]


def _term(edit: Edit, mask: Mask, index: int, dtype: ir.DataType, low: float) -> ir.Value:
    value = mask.value
    if mask.fill is not None:
        fill = edit.scalar("masked", mask.fill if mask.infinite() else max(mask.fill, low), dtype)
        zero = edit.scalar("kept", 0.0, dtype)
        branches = (zero, fill) if mask.keep else (fill, zero)
        return typed(edit.op("Where", value, *branches, name=f"mask_{index}"), dtype, value.shape)
    if value.dtype in (None, dtype):
        return value
    return typed(edit.op("Cast", value, to=dtype.value, name=f"mask_{index}"), dtype, value.shape)


def typed(value: ir.Value, dtype: ir.DataType | None, shape: Iterable[_Size] | None) -> ir.Value:
    """A value that is declared to be of this type and shape."""
    value.type = type_of(dtype)
    value.shape = ir.Shape(shape) if shape is not None else None
    return value
