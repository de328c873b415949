"""Take a node out whose output equals its first input."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from bct_onnx.graph import dims, tensors
from bct_onnx.graph.known import permuted
from bct_onnx.graph.neighbours import is_read, operand


def bypass(node: ir.Node) -> bool:
    """Give the uses of the first output of ``node`` to its first input, and remove the node.

    The names of graph outputs are kept. Returns False, with nothing changed, where the node has to stay because its
    output is a graph output and its input is an initializer, an input, an output of its own, or of an outer graph.
    """
    x, y = node.inputs[0], node.outputs[0]
    if x is None or node.graph is None:
        return False
    if y.is_graph_output():
        producer = x.producer()
        if producer is None or x.is_graph_output() or producer.graph is not node.graph:
            return False
        name, y.name = y.name, None
        x.name, x.type, x.shape = name, y.type, y.shape
    y.replace_all_uses_with(x, replace_graph_outputs=True)
    node.graph.remove(node, safe=True)
    return True


def unchanged(node: ir.Node) -> ir.Value | None:
    """The value that the only output of ``node`` always equals."""
    x = operand(node, 0)
    if x is None or node.domain != "" or any(map(is_read, node.outputs[1:])):
        return None
    if node.op_type == "Transpose":
        return _untransposed(node, x)
    check = _NO_OPS.get(node.op_type)
    if check is not None and check(node):
        return x
    return None


def _untransposed(node: ir.Node, x: ir.Value) -> ir.Value | None:
    perm = list(node.attributes.get_ints("perm") or ())
    if perm and perm == sorted(perm):
        return x
    inner = x.producer()
    if inner is None or inner.op_type != "Transpose" or inner.domain != "":
        return None
    first = list(inner.attributes.get_ints("perm") or ())
    if not perm and not first:
        return inner.inputs[0]
    if len(perm) != len(first):
        return None
    if permuted(first, perm) == sorted(perm):
        return inner.inputs[0]
    return None


def _keeps_shape(node: ir.Node) -> bool:
    before, after = dims.of(node.inputs[0]), dims.of(node.outputs[0])
    return before is not None and before == after and None not in before


def _whole_slice(node: ir.Node) -> bool:
    steps = tensors.small_constant(operand(node, 4))
    forward = len(node.inputs) <= 4 or (steps is not None and bool((steps > 0).all()))
    return forward and _keeps_shape(node)


def _same_type(node: ir.Node) -> bool:
    x = node.inputs[0]
    return x is not None and x.dtype is not None and x.dtype.value == node.attributes["to"].as_int()


def _inactive(node: ir.Node) -> bool:
    """Dropout drops nothing but in training mode."""
    training = operand(node, 2)
    if training is None:
        return True
    mode = tensors.small_constant(training)
    return mode is not None and not mode.any()


_NO_OPS: dict[str, Callable[[ir.Node], bool]] = {
    "Identity": lambda node: True,
    "Dropout": _inactive,
    "Cast": _same_type,
    "Reshape": _keeps_shape,
    "Expand": _keeps_shape,
    "Slice": _whole_slice,
    "Concat": lambda node: len(node.inputs) == 1,
}
