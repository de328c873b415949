"""How operators compute the elements of small integer tensors: the values of `Tracker`.

Every value has the rank that it has when the model runs. An element that its type cannot hold is unknown, and so is a
name in a type that is too small for sizes: integers wrap around, and what they are then is for the runtime to say.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from bct_onnx.graph.dims.arithmetic import (
    Dim,
    Dims,
    add,
    at_least,
    divide,
    equal,
    largest,
    less,
    modulo,
    multiply,
    smallest,
    subtract,
)
from bct_onnx.graph.dims.reading import FAR, SMALL, Symbolic, given
from bct_onnx.graph.known import sizes_of

if TYPE_CHECKING:
    from bct_onnx.graph.dims import Tracker

Rule = Callable[["Tracker", ir.Node], Symbolic | None]

_SIZES = (ir.DataType.INT32, ir.DataType.INT64, ir.DataType.UINT32, ir.DataType.UINT64)
"""Types that hold every size."""


def held(dim: Dim, dtype: ir.DataType | None) -> Dim:
    """The element if its type can hold it."""
    if dtype is None or dim is None:
        return None
    if isinstance(dim, str):
        if dtype in _SIZES:
            return dim
        return None
    if dtype == ir.DataType.BOOL:
        if isinstance(dim, bool):
            return dim
        return None
    if dtype.is_integer() and dtype.min <= dim <= dtype.max:
        return dim
    return None


def _elementwise(function: Callable[..., Dim]) -> Rule:
    def compute(tracker: Tracker, node: ir.Node) -> Symbolic | None:
        operands: list[Symbolic] = []
        for value in node.inputs:
            known = tracker.value(value)
            if known is None:
                return None
            operands.append(known)
        if not _small(np.broadcast_shapes(*(operand.shape for operand in operands))):
            return None
        return _array(np.frompyfunc(function, len(operands), 1)(*operands))

    return compute


def _folded(function: Callable[[Dim, Dim], Dim]) -> Rule:
    return _elementwise(lambda *operands: functools.reduce(function, operands))


def _array(elements: object) -> Symbolic:
    return np.asarray(elements, dtype=object)


def _small(shape: tuple[int, ...]) -> bool:
    return math.prod(shape) <= SMALL


def _choose(condition: Dim, yes: Dim, no: Dim) -> Dim:
    if condition is None:
        if yes == no:
            return yes
        return None
    return yes if condition else no


def _logical(function: Callable[[bool, bool], bool]) -> Rule:
    return _elementwise(lambda a, b: None if a is None or b is None else function(a, b))


def _negated(a: Dim) -> Dim:
    if a is None:
        return None
    return not a


def _minus(a: Dim) -> Dim:
    return subtract(0, a)


def _modulo(tracker: Tracker, node: ir.Node) -> Symbolic | None:
    like_c = node.attributes.get_int("fmod", 0) == 1
    return _elementwise(functools.partial(modulo, like_c=like_c))(tracker, node)


def _shape(tracker: Tracker, node: ir.Node) -> Symbolic | None:
    dims = tracker.of(node.inputs[0])
    if dims is None:
        return None
    end = node.attributes.get_int("end")
    return _array(dims)[node.attributes.get_int("start", 0) : end]


def _size(tracker: Tracker, node: ir.Node) -> Symbolic | None:
    dims = tracker.of(node.inputs[0])
    if dims is None:
        return None
    return _array(functools.reduce(multiply, (1, *dims)))


def _gather(tracker: Tracker, node: ir.Node) -> Symbolic | None:
    data, indices = tracker.value(node.inputs[0]), tracker.numbers(node, 1)
    if data is None or data.ndim == 0 or indices is None or not _small(indices.shape):
        return None
    return _array(np.take(data, indices, axis=node.attributes.get_int("axis", 0)))


def _slice(tracker: Tracker, node: ir.Node) -> Symbolic | None:
    data, starts, ends = tracker.value(node.inputs[0]), tracker.ints(node, 1), tracker.ints(node, 2)
    if data is None or starts is None or ends is None:
        return None
    known = tracker.axes_and_steps(node, len(starts))
    if known is None:
        return None
    parts = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, *known, strict=True):
        if step < 0 and end >= FAR:
            return None
        parts[axis] = slice(start, end, step)
    return data[tuple(parts)]


def _concat(tracker: Tracker, node: ir.Node) -> Symbolic | None:
    """What no element is known of is noted by nobody: `Tracker.visit` keeps values of which one is."""
    parts: list[Symbolic] = []
    for value in node.inputs:
        part = tracker.value(value)
        if part is None:
            part = _unknown(tracker.of(value))
        if part is None:
            return None
        parts.append(part)
    return np.concatenate(parts, axis=node.attributes["axis"].as_int())


def _unknown(shape: Dims | None) -> Symbolic | None:
    """A tensor of unknown elements, if its size is known."""
    sizes = tuple(sizes_of(shape or ()))
    if shape is None or len(sizes) < len(shape) or not _small(sizes):
        return None
    return np.full(sizes, None, dtype=object)


def _unsqueeze(tracker: Tracker, node: ir.Node) -> Symbolic | None:
    data, axes = tracker.value(node.inputs[0]), tracker.axes(node)
    if data is None or axes is None:
        return None
    return np.expand_dims(data, tuple(axes))


def _squeeze(tracker: Tracker, node: ir.Node) -> Symbolic | None:
    data, axes = tracker.value(node.inputs[0]), tracker.axes(node)
    if data is None or (axes is None and (given(node, 1) or "axes" in node.attributes)):
        return None
    return _array(np.squeeze(data, None if axes is None else tuple(axes)))


def _reshape(tracker: Tracker, node: ir.Node) -> Symbolic | None:
    data, target = tracker.value(node.inputs[0]), tracker.ints(node, 1)
    if data is None or target is None:
        return None
    copy = node.attributes.get_int("allowzero", 0) == 0
    return data.reshape([data.shape[axis] if copy and size == 0 else size for axis, size in enumerate(target)])


def _transpose(tracker: Tracker, node: ir.Node) -> Symbolic | None:
    data = tracker.value(node.inputs[0])
    if data is None:
        return None
    return np.transpose(data, node.attributes.get_ints("perm") or None)


def _expand(tracker: Tracker, node: ir.Node) -> Symbolic | None:
    data, target = tracker.value(node.inputs[0]), tracker.ints(node, 1)
    if data is None or target is None:
        return None
    shape = np.broadcast_shapes(data.shape, tuple(target))
    if _small(shape):
        return np.broadcast_to(data, shape)
    return None


def _filled(tracker: Tracker, node: ir.Node) -> Symbolic | None:
    shape = tracker.ints(node, 0)
    tensor = node.attributes.get_tensor("value")
    if shape is None or tensor is None or not _small(tuple(shape)):
        return None
    fill = tensor.numpy().reshape(-1)
    if fill.dtype.kind in "iub":
        return np.full(shape, fill.item(), dtype=object)
    return None


def _cast(tracker: Tracker, node: ir.Node) -> Symbolic | None:
    """Numbers and names keep their value in an integer type that can hold them; a number is true unless it is 0."""
    data, to = tracker.value(node.inputs[0]), ir.DataType(node.attributes["to"].as_int())
    if data is None:
        return None
    return _array(np.frompyfunc(_truth if to == ir.DataType.BOOL else _whole, 1, 1)(data))


def _truth(dim: Dim) -> Dim:
    if isinstance(dim, int):
        return bool(dim)
    return True if at_least(dim, 1) else None


def _whole(dim: Dim) -> Dim:
    return int(dim) if isinstance(dim, bool) else dim


RULES: dict[str, Rule] = {
    "Add": _elementwise(add),
    "And": _logical(operator.and_),
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Div": _elementwise(divide),
    "Equal": _elementwise(equal),
    "Expand": _expand,
    "Gather": _gather,
    "Greater": _elementwise(lambda a, b: less(b, a)),
    "GreaterOrEqual": _elementwise(lambda a, b: _negated(less(a, b))),
    "Identity": _elementwise(lambda a: a),
    "Less": _elementwise(less),
    "LessOrEqual": _elementwise(lambda a, b: _negated(less(b, a))),
    "Max": _folded(largest),
    "Min": _folded(smallest),
    "Mod": _modulo,
    "Mul": _elementwise(multiply),
    "Neg": _elementwise(_minus),
    "Not": _elementwise(_negated),
    "Or": _logical(operator.or_),
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _elementwise(subtract),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _elementwise(_choose),
}
