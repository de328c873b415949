"""How operators compute the elements of small integer tensors: the values of `Tracker`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from bct_onnx.graph.dims.arithmetic import Dim, Dims, add, divide, equal, multiply, subtract
from bct_onnx.graph.dims.reading import SMALL, Symbolic, of

if TYPE_CHECKING:
    from bct_onnx.graph.dims import Tracker


def _elementwise(function: Callable[..., Dim]) -> Callable[[Tracker, ir.Node], Symbolic | None]:
    def compute(tracker: Tracker, node: ir.Node) -> Symbolic | None:
        operands = [tracker.value(value) for value in node.inputs]
        known = [operand for operand in operands if operand is not None]
        if len(known) < len(operands):
            return None
        return np.asarray(np.frompyfunc(function, len(known), 1)(*known), dtype=object)

    return compute


def _choose(condition: Dim, yes: Dim, no: Dim) -> Dim:
    return None if condition is None and yes != no else yes if condition else no


def _shape_value(tracker: Tracker, node: ir.Node) -> Symbolic | None:
    dims = of(node.inputs[0])
    if dims is None:
        return None
    return np.array(dims, dtype=object)[node.attributes.get_int("start", 0) : _end(node)]


def _end(node: ir.Node) -> int | None:
    return node.attributes["end"].as_int() if "end" in node.attributes else None


def _gather_value(tracker: Tracker, node: ir.Node) -> Symbolic | None:
    data, indices = tracker.value(node.inputs[0]), tracker.ints(node, 1)
    rank = of(node.inputs[1])
    if data is None or data.ndim != 1 or indices is None or rank is None:
        return None
    if any(not -data.size <= index < data.size for index in indices):
        return None
    return data[np.array(indices, dtype=np.int64)].reshape(() if rank == () else (-1,))


def _slice_value(tracker: Tracker, node: ir.Node) -> Symbolic | None:
    data = tracker.value(node.inputs[0])
    starts, ends = tracker.ints(node, 1), tracker.ints(node, 2)
    steps = tracker.ints(node, 4) if len(node.inputs) > 4 else [1]
    if data is None or data.ndim != 1 or not starts or not ends or not steps or steps[0] < 1:
        return None
    return data[starts[0] : ends[0] : steps[0]]


def _concat_value(tracker: Tracker, node: ir.Node) -> Symbolic | None:
    parts = [tracker.value(value) for value in node.inputs]
    shapes = [of(value) for value in node.inputs]
    if all(part is None for part in parts):
        return None
    filled = [_unknown(shape) if part is None else part for part, shape in zip(parts, shapes, strict=True)]
    known = [part for part in filled if part is not None and part.ndim == 1]
    return np.concatenate(known) if len(known) == len(parts) else None


def _unknown(shape: Dims | None) -> Symbolic | None:
    """A vector of unknown elements, if its length is known."""
    if shape is None or len(shape) != 1 or not isinstance(shape[0], int) or shape[0] > SMALL:
        return None
    return np.full(shape[0], None, dtype=object)


def _flat_value(rank: int) -> Callable[[Tracker, ir.Node], Symbolic | None]:
    def compute(tracker: Tracker, node: ir.Node) -> Symbolic | None:
        data = tracker.value(node.inputs[0])
        return None if data is None or data.ndim > 1 or (rank == 0 and data.size != 1) else data.reshape((-1,) * rank)

    return compute


def _reshape_value(tracker: Tracker, node: ir.Node) -> Symbolic | None:
    data, shape = tracker.value(node.inputs[0]), tracker.ints(node, 1)
    return None if data is None or shape is None or len(shape) > 1 else data.reshape((-1,) * len(shape))


def _cast_value(tracker: Tracker, node: ir.Node) -> Symbolic | None:
    to = ir.DataType(node.attributes["to"].as_int())
    return tracker.value(node.inputs[0]) if to in (ir.DataType.INT64, ir.DataType.INT32) else None


def _filled_value(tracker: Tracker, node: ir.Node) -> Symbolic | None:
    shape = tracker.ints(node, 0)
    tensor = node.attributes["value"].as_tensor() if "value" in node.attributes else None
    if (
        shape is None
        or len(shape) > 1
        or tensor is None
        or not tensor.dtype.is_integer()
        or any(n > SMALL for n in shape)
    ):
        return None
    return np.full(shape, int(tensor.numpy().item()), dtype=object)


RULES: dict[str, Callable[[Tracker, ir.Node], Symbolic | None]] = {
    "Add": _elementwise(add),
    "Cast": _cast_value,
    "Concat": _concat_value,
    "ConstantOfShape": _filled_value,
    "Div": _elementwise(divide),
    "Equal": _elementwise(equal),
    "Gather": _gather_value,
    "Identity": _elementwise(lambda a: a),
    "Mul": _elementwise(multiply),
    "Reshape": _reshape_value,
    "Shape": _shape_value,
    "Slice": _slice_value,
    "Squeeze": _flat_value(0),
    "Sub": _elementwise(subtract),
    "Unsqueeze": _flat_value(1),
    "Where": _elementwise(_choose),
}
