"""Remove nodes, and outputs of nodes, that nothing reads."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from bct_onnx.graph import walk
from bct_onnx.graph.neighbours import provided

_PAST = slice(4, 6)
_PRESENT = slice(1, 3)


def remove_unused_nodes(model: ir.Model) -> None:
    """Remove dead nodes, unused initializers, and optional outputs without a use.

    An ``Attention`` that gets a cache keeps the one it gives, read or not: ONNX Runtime does not run it without. What
    nodes in branches of a dead one read is not read any more.
    """
    branching = list(filter(walk.holds_graphs, model.graph.all_nodes()))
    cached = [(node, list(map(_of, node.outputs[_PRESENT]))) for node in model.graph.all_nodes() if _is(node)]
    common.RemoveUnusedNodesPass()(model)
    dead = [node for node in branching if node.graph is None]
    for node in dead:
        for branch in walk.inner(node):
            for inner in branch.all_nodes():
                inner.resize_inputs(0)
    if dead:
        common.RemoveUnusedNodesPass()(model)  # now also what these have read
    for node, present in cached:
        if node.graph is not None:
            node.resize_outputs(max(len(node.outputs), 1 + len(present)))
            for value, (name, kind, shape) in zip(node.outputs[_PRESENT], present, strict=True):
                value.name, value.type, value.shape = name, kind, shape


def _is(node: ir.Node) -> bool:
    return node.op_type == "Attention" and not node.domain and bool(provided(node.inputs[_PAST]))


def _of(value: ir.Value) -> tuple[str | None, ir.TypeProtocol | None, ir.Shape | None]:
    return value.name, value.type, value.shape
