"""Which values of a graph count positions, and of which inputs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from bct_onnx.graph.names import names_of
from bct_onnx.graph.neighbours import producer, provided, reached, sources


def positions(value: ir.Value | None, depth: int = 12) -> list[str] | None:
    """Inputs whose axes are counted, where ``value`` is made of positions; None where it is not."""
    seen: set[ir.Value] = set()
    queue = provided([value])
    while queue and depth:
        depth -= 1
        following: list[ir.Value] = []
        for counted in queue:
            node = counted.producer()
            if counts_up(counted):
                return []
            if node is None or counted in seen:
                continue
            seen.add(counted)
            if node.op_type == "Range":
                return sorted(set().union(*map(_measured, node.inputs)))
            if node.op_type in ("CumSum", "NonZero"):
                return sorted(_ancestors(node.inputs[0]))
            following += provided(node.inputs)
        queue = following
    return None


TOKENWISE = frozenset(("MatMul", "Gemm", "Gather", "Attention", "LSTM", "GRU"))
"""Operators behind which there are tokens."""


def strides(start: ir.Value) -> int:
    """How many frames of a signal make a token: the steps of the convolutions that it goes through, multiplied."""
    frames = 1
    queue, seen = [(start, 1)], {start}
    while queue:
        value, steps = queue.pop()
        for node, index in value.uses():
            if node.op_type in TOKENWISE or index != 0 or not node.outputs or node.outputs[0] in seen:
                continue
            along = node.attributes.get_ints("strides", (1,))[-1] if node.op_type in ("Conv", "MaxPool") else 1
            frames = max(frames, steps * along)
            seen.add(node.outputs[0])
            queue.append((node.outputs[0], steps * along))
    return frames


def counts_up(value: ir.Value) -> bool:
    """Whether ``value`` is a constant 0, 1, 2, ..."""
    constant = ir.convenience.get_const_tensor(value)
    if constant is None or constant.size < 2 or constant.size > 1 << 16 or not constant.dtype.is_integer():
        return False
    return bool((np.diff(constant.numpy().reshape(-1).astype(np.int64)) == 1).all())


LENGTHS = 6
"""Most lengths that are told of one model."""


def lengths(model: ir.Model) -> tuple[int, ...]:
    """Sequences that constants of a model are made for: positions that count up, and tables of terms for each token."""
    told: dict[int, None] = {}
    for node in model.graph.all_nodes():
        for index, operand in enumerate(node.inputs):
            size = _constant_length(node, index) if operand is not None else None
            if size is not None and size > 1:
                told[size] = None
    return tuple(told)[:LENGTHS]


def _constant_length(node: ir.Node, index: int) -> int | None:
    """For how many tokens an input of ``node`` is made; None where it is no such constant."""
    operand = node.inputs[index]
    if operand is None or node.domain or node.op_type not in ("Add", "Sub", "Mul", "Where", "Unsqueeze", "Gather"):
        return None
    tensor = ir.convenience.get_const_tensor(operand)
    if tensor is None:
        return None
    sizes = tensor.shape.numpy()
    if node.op_type in ("Add", "Sub", "Mul") and len(sizes) > 1:
        return int(sizes[-2])
    is_index = index == (1 if node.op_type == "Gather" else 0)
    if is_index and counts_up(operand):
        return int(tensor.size)
    return None


def measures(value: ir.Value) -> bool:
    """Whether ``value`` is made of the sizes of inputs."""
    return next(_measured(value), None) is not None


def _measured(value: ir.Value | None) -> Iterator[str]:
    """Inputs whose sizes a number comes from."""
    for node in filter(None, map(producer, reached(provided([value]), sources))):
        if node.op_type in ("Shape", "Size"):
            yield from _ancestors(node.inputs[0])


def _ancestors(value: ir.Value | None) -> set[str]:
    """Inputs of the graph that a value is made of."""
    return set(names_of(filter(ir.Value.is_graph_input, reached(provided([value]), sources))))
