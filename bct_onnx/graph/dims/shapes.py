"""The shapes that operators give to their first outputs, with names."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import TYPE_CHECKING

import onnx_ir as ir

from bct_onnx.graph import operators
from bct_onnx.graph.dims.arithmetic import Dim, Dims, add, at_least, broadcast, distance, remaining
from bct_onnx.graph.dims.reading import FAR, given
from bct_onnx.graph.known import from_start, permuted, sizes_of

if TYPE_CHECKING:
    from bct_onnx.graph.dims import Tracker


def _unknown(tracker: Tracker, node: ir.Node) -> Dims | None:
    return None


def _same(tracker: Tracker, node: ir.Node) -> Dims | None:
    return tracker.of(node.inputs[0])


def _broadcast_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    return broadcast(*map(tracker.of, node.inputs))


def _matmul_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    a, b = tracker.of(node.inputs[0]), tracker.of(node.inputs[1])
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return None
    outer = broadcast(a[:-2], b[:-2])
    if outer is None:
        return None
    return (*outer, a[-2], b[-1])


def _transpose_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    dims = tracker.of(node.inputs[0])
    if dims is None:
        return None
    perm = node.attributes.get_ints("perm") or tuple(range(len(dims)))[::-1]
    return tuple(permuted(dims, perm))


def _reshape_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    """What a shape of known numbers and names gives; a named size in it is taken not to be 0, which would copy."""
    dims, shape = tracker.of(node.inputs[0]), tracker.target(node, 1)
    if shape is None:
        return None
    if node.attributes.get_int("allowzero", 0) == 0:
        copied = (None,) * len(shape) if dims is None else dims
        for axis, dim in enumerate(shape[: len(copied)]):
            if dim == 0:
                shape[axis] = copied[axis]
    if shape.count(-1) == 1:
        shape[shape.index(-1)] = None if dims is None else remaining(dims, [dim for dim in shape if dim != -1])
    return _sizes(shape)


def _sizes(target: Iterable[Dim]) -> Dims:
    """Sizes that a shape asks for: a number below 0 is none."""
    return tuple(dim if isinstance(dim, str) or at_least(dim, 0) else None for dim in target)


def _unsqueeze_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    dims, axes = tracker.of(node.inputs[0]), tracker.axes(node)
    if dims is None or axes is None:
        return None
    rank = len(dims) + len(axes)
    new, rest = from_start(axes, rank), iter(dims)
    return tuple(1 if axis in new else next(rest) for axis in range(rank))


def _squeeze_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    dims, axes = tracker.of(node.inputs[0]), tracker.axes(node)
    if dims is None or axes is None:  # without axes, every size that turns out to be 1 goes
        return None
    return _without(dims, from_start(axes, len(dims)))


def _gather_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    data, indices = tracker.of(node.inputs[0]), tracker.of(node.inputs[1])
    if data is None or indices is None:
        return None
    axis = node.attributes.get_int("axis", 0) % len(data)
    return (*data[:axis], *indices, *data[axis + 1 :])


def _lookup_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    """Of rows of codes: how many numbers a row has is inferred before."""
    rows, indices, inferred = tracker.of(node.inputs[0]), tracker.of(node.inputs[1]), tracker.of(node.outputs[0])
    if rows is None or indices is None or inferred is None:
        return None
    axis = node.attributes.get_int("gather_axis", 0) % len(rows)
    return (*rows[:axis], *indices, *inferred[axis + len(indices) :])


def _slice_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    dims = tracker.of(node.inputs[0])
    starts, ends = tracker.value(node.inputs[1]), tracker.value(node.inputs[2])  # below opset 10 these were attributes
    if dims is None or starts is None or ends is None:
        return None
    known = tracker.axes_and_steps(node, starts.size)
    if known is None:
        return None
    shape = list(dims)
    for start, end, axis, step in zip(starts.flat, ends.flat, *known, strict=True):
        shape[axis] = _slice_length(dims[axis], start, end, step)
    return tuple(shape)


def _slice_length(size: Dim, start: Dim, end: Dim, step: int) -> Dim:
    """How much of ``size`` a slice takes; a buffer of fixed size is taken to be long enough for a named end."""
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int) and (step > 0 or end < FAR):
        return len(range(size)[start:end:step])
    if step != 1:
        return None
    buffer = isinstance(size, int) and isinstance(end, str)
    first, last = _position(start, size), end if buffer else _position(end, size)
    if buffer and isinstance(start, str):
        first = start
    return distance(first, last)


def _position(at: Dim, size: Dim) -> Dim:
    """Where a start or an end lies in an axis of ``size``; None where that is not certain."""
    if isinstance(at, int) and at < 0:
        if isinstance(size, int) and size + at >= 0:
            return add(size, at)
        return None
    if at_least(size, at):
        return at
    if at_least(at, size) or (isinstance(at, int) and at >= FAR):
        return size
    return None


def _expand_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    target = tracker.target(node, 1)
    if target is None:
        return None
    return broadcast(tracker.of(node.inputs[0]), _sizes(target))


def _concat_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    shapes: list[Dims] = []
    for value in node.inputs:
        shape = tracker.of(value)
        if not shape or len(shape) != len(shapes[0] if shapes else shape):
            return None
        shapes.append(shape)
    axis = node.attributes["axis"].as_int() % len(shapes[0])
    joined: list[Dim] = []
    for at, column in enumerate(zip(*shapes, strict=True)):
        if at == axis:
            joined.append(add(*column))
        else:  # all have the same size: one may know it as a number
            joined.append(next(iter(sizes_of(column)), column[0]))
    return tuple(joined)


def part(tracker: Tracker, node: ir.Node, index: int) -> Dims | None:
    """The shape of one output of a ``Split``; without sizes all parts have the same, the last perhaps less."""
    dims = tracker.of(node.inputs[0])
    if dims is None:
        return None
    axis = node.attributes.get_int("axis", 0) % len(dims)
    sizes = node.attributes.get_ints("split") or (tracker.ints(node, 1) if given(node, 1) else None)
    if sizes is not None:
        return (*dims[:axis], sizes[index], *dims[axis + 1 :])
    whole, count = dims[axis], node.attributes.get_int("num_outputs", len(node.outputs))
    if not isinstance(whole, int) or given(node, 1):
        return (*dims[:axis], None, *dims[axis + 1 :])
    size = -(-whole // count)
    return (*dims[:axis], min(size, max(0, whole - index * size)), *dims[axis + 1 :])


def _filled_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    target = tracker.target(node, 0)
    if target is None:
        return None
    return _sizes(target)


def _range_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    first, last, by = map(tracker.value, node.inputs)
    if first is None or last is None or by is None:
        return None
    start, limit, step = first.item(), last.item(), by.item()
    if isinstance(start, int) and isinstance(limit, int) and isinstance(step, int):
        return (len(range(start, limit, step)),)
    if step != 1:
        return None
    return (distance(start, limit),)


def _reduce_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    dims, axes = tracker.of(node.inputs[0]), tracker.axes(node)
    if dims is None or (axes is None and (given(node, 1) or "axes" in node.attributes)):
        return None
    if not axes and node.attributes.get_int("noop_with_empty_axes", 0) == 1:
        return dims
    reduced = from_start(axes or range(len(dims)), len(dims))
    if node.attributes.get_int("keepdims", 1) == 1:
        return tuple(1 if axis in reduced else dim for axis, dim in enumerate(dims))
    return _without(dims, reduced)


def _attention_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    query, value = tracker.of(node.inputs[0]), tracker.of(node.inputs[2])
    if query is None or value is None:
        return None
    return (*query[:-1], value[-1] if len(query) == 4 else None)


_SAME = (
    *("Cast", "CastLike", "Clip", "CumSum", "Dropout", "Identity", "LayerNormalization", "LogSoftmax"),
    *("RMSNormalization", "RotaryEmbedding", "ScatterND", "Softmax", "Trilu"),
)
"""Operators whose result has the shape of their first input, whatever that of the others."""

RULES: dict[str, Callable[[Tracker, ir.Node], Dims | None]] = {
    **dict.fromkeys(operators.named("arithmetic", "activation", "test", "choice"), _broadcast_shape),
    **dict.fromkeys(operators.named("reduction"), _reduce_shape),
    **dict.fromkeys(_SAME, _same),
    "Attention": _attention_shape,
    "Concat": _concat_shape,
    "ConstantOfShape": _filled_shape,
    "Expand": _expand_shape,
    "Gather": _gather_shape,
    "MatMul": _matmul_shape,
    "Range": _range_shape,
    "Reshape": _reshape_shape,
    "Slice": _slice_shape,
    "Squeeze": _squeeze_shape,
    "Transpose": _transpose_shape,
    "Unsqueeze": _unsqueeze_shape,
    "com.microsoft::GatherBlockQuantized": _lookup_shape,
}


def _without(dims: Dims, axes: Container[int]) -> Dims:
    """The sizes of all axes but some."""
    return tuple(dim for axis, dim in enumerate(dims) if axis not in axes)
