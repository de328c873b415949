"""The shapes that operators give to their first outputs, with names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import onnx_ir as ir

from bct_onnx.graph.dims.arithmetic import Dim, Dims, add, broadcast, remaining, subtract
from bct_onnx.graph.dims.reading import of

if TYPE_CHECKING:
    from bct_onnx.graph.dims import Tracker


def _unknown(tracker: Tracker, node: ir.Node) -> Dims | None:
    return None


def _same(tracker: Tracker, node: ir.Node) -> Dims | None:
    return of(node.inputs[0])


def _broadcast_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    return broadcast(*(of(value) for value in node.inputs))


def _matmul_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    a, b = of(node.inputs[0]), of(node.inputs[1])
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return None
    outer = broadcast(a[:-2], b[:-2])
    return None if outer is None else (*outer, a[-2], b[-1])


def _transpose_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    dims = of(node.inputs[0])
    if dims is None:
        return None
    perm = node.attributes.get_ints("perm") or tuple(range(len(dims)))[::-1]
    return tuple(dims[axis] for axis in perm)


def _reshape_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    dims, target = of(node.inputs[0]), tracker.value(node.inputs[1])
    if target is None or target.ndim != 1:
        return None
    copied = dims if dims is not None else (None,) * len(target)
    copy = node.attributes.get_int("allowzero", 0) == 0
    shape = [copied[i] if copy and dim == 0 and i < len(copied) else dim for i, dim in enumerate(target)]
    if shape.count(-1) == 1:
        shape[shape.index(-1)] = None if dims is None else remaining(dims, [dim for dim in shape if dim != -1])
    return tuple(shape)


def _axes(tracker: Tracker, node: ir.Node, rank: int) -> list[int] | None:
    axes = tracker.ints(node, 1)
    return None if axes is None else [axis % rank for axis in axes]


def _unsqueeze_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    dims, axes = of(node.inputs[0]), tracker.ints(node, 1)
    if dims is None or axes is None:
        return None
    rank = len(dims) + len(axes)
    new, rest = {axis % rank for axis in axes}, iter(dims)
    return tuple(1 if axis in new else next(rest) for axis in range(rank))


def _squeeze_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    dims = of(node.inputs[0])
    axes = None if dims is None else _axes(tracker, node, len(dims))
    return None if dims is None or axes is None else tuple(dim for axis, dim in enumerate(dims) if axis not in axes)


def _gather_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    data, indices = of(node.inputs[0]), of(node.inputs[1])
    if data is None or indices is None:
        return None
    axis = node.attributes.get_int("axis", 0) % len(data)
    return (*data[:axis], *indices, *data[axis + 1 :])


def _slice_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    if len(node.inputs) < 3:  # below opset 10 these were attributes
        return None
    dims, starts, ends = of(node.inputs[0]), tracker.ints(node, 1), tracker.value(node.inputs[2])
    axes = tracker.ints(node, 3) if len(node.inputs) > 3 else list(range(len(starts or ())))
    steps = tracker.ints(node, 4) if len(node.inputs) > 4 else [1]
    if (
        dims is None
        or starts is None
        or ends is None
        or axes is None
        or steps is None
        or any(step != 1 for step in steps)
    ):
        return None
    shape = list(dims)
    for start, end, axis in zip(starts, ends.reshape(-1), axes, strict=True):
        shape[axis] = _slice_length(dims[axis], start, end)
    return tuple(shape)


def _slice_length(size: Dim, start: int, end: Dim) -> Dim:
    if isinstance(size, int) and isinstance(end, int):
        return len(range(size)[start:end])
    if start < 0:
        return None
    if isinstance(end, int):  # the rest of a named size, or the beginning of one, which may be shorter
        return subtract(size, start) if end >= 2**31 - 1 else None
    return subtract(end, start)


def _expand_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    target = tracker.value(node.inputs[1])
    return None if target is None or target.ndim != 1 else broadcast(of(node.inputs[0]), tuple(target))


def _concat_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    shapes = [of(value) for value in node.inputs]
    known = [shape for shape in shapes if shape]
    if len(known) < len(shapes) or len({len(shape) for shape in known}) != 1:
        return None
    axis = node.attributes["axis"].as_int() % len(known[0])
    columns = list(zip(*known, strict=True))
    return tuple(
        add(*column) if i == axis else next((d for d in column if isinstance(d, int)), column[0])
        for i, column in enumerate(columns)
    )


def _filled_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    target = tracker.value(node.inputs[0])
    return None if target is None or target.ndim != 1 else tuple(target)


def _range_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    start, limit, step = (tracker.value(value) for value in node.inputs)
    if start is None or limit is None or step is None or step.item() != 1:
        return None
    return (subtract(limit.item(), start.item()),)


def _reduce_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    dims = of(node.inputs[0])
    axes = None if dims is None or len(node.inputs) < 2 else _axes(tracker, node, len(dims))
    if dims is None or axes is None:
        return None
    keep = node.attributes.get_int("keepdims", 1) == 1
    return tuple(1 if axis in axes else dim for axis, dim in enumerate(dims) if keep or axis not in axes)


def _attention_shape(tracker: Tracker, node: ir.Node) -> Dims | None:
    query, value = of(node.inputs[0]), of(node.inputs[2])
    if query is None or value is None:
        return None
    return (*query[:-1], value[-1] if len(query) == 4 else None)


_SAME = (
    *("Abs", "Cast", "Clip", "Cos", "CumSum", "Dropout", "Erf", "Exp", "Gelu", "Identity", "LayerNormalization", "Log"),
    *("LogSoftmax", "Neg", "Not", "RMSNormalization", "Reciprocal", "Relu", "RotaryEmbedding", "Round", "ScatterND"),
    *("Sigmoid", "Sign", "Sin", "Softmax", "Softplus", "Sqrt", "Tanh", "Trilu"),
)
_BROADCAST = (
    *(
        "Add",
        "And",
        "BitwiseAnd",
        "Div",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Max",
        "Min",
        "Mod",
    ),
    *("Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor"),
)
_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

RULES: dict[str, Callable[[Tracker, ir.Node], Dims | None]] = {
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(_BROADCAST, _broadcast_shape),
    **{f"Reduce{kind}": _reduce_shape for kind in _REDUCTIONS},
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
}
