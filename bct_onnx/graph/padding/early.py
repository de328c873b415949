"""What knows nothing of tokens: masks, positions, sizes. Some of it is only read where something is padded."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from bct_onnx.graph.branches import Nodes
from bct_onnx.graph.known import dtypes_of
from bct_onnx.graph.neighbours import producer, read_by, uses_outside
from bct_onnx.graph.padding.copies import copied, nothing
from bct_onnx.graph.padding.layout import Layout
from bct_onnx.graph.padding.places import Places


def early(layout: Layout, graph: ir.Graph) -> dict[ir.Node, None]:
    """The nodes that read inputs and constants alone, no numbers of tokens, in order; those of constants are not among
    them."""
    nodes: dict[ir.Node, None] = {}
    for node in graph:
        if any(map(layout.is_content, node.outputs)) or all(map(layout.is_constant, node.outputs)):
            continue
        made = [value for value in read_by(node) if not (value.is_graph_input() or layout.is_constant(value))]
        if set(map(producer, made)) <= nodes.keys():
            nodes[node] = None
    return nodes


def put_off(places: Places, nodes: dict[ir.Node, None]) -> None:
    """Move those of `early` nodes that are read only where something is padded into the branch that runs then."""
    graph = places.edit.graph
    inside = set(_padded_nodes(places, graph))
    moved: dict[ir.Node, None] = {}
    for node in reversed(nodes):
        users = node.successors()
        is_read = bool(users) and all(user in moved or user in inside for user in users)
        typed = None not in dtypes_of(node.outputs)
        if node.graph is graph and is_read and typed and not any(map(ir.Value.is_graph_output, node.outputs)):
            moved[node] = None
    replaced: dict[ir.Value, ir.Value] = {}
    places.begin_with([copied(node, replaced) for node in reversed(moved)])
    for value, copy in replaced.items():
        uses, given = uses_outside(value, moved), copy
        if any(user.graph is not places.padded for user, _ in uses):
            given = _given(places, copy)
        for user, index in uses:
            user.replace_input_with(index, copy if user.graph is places.padded else given)
    graph.remove(moved, safe=True)


def _given(places: Places, value: ir.Value) -> ir.Value:
    whole, kind = Nodes("full"), value.dtype
    assert kind is not None
    return places.add(Nodes("padded"), value, whole, nothing(whole, kind))


def _padded_nodes(places: Places, graph: ir.Graph) -> Iterator[ir.Node]:
    """Nodes of branches that run only where something is padded."""
    for node in graph:
        if node.op_type != "If":
            continue
        if node.inputs[0] is places.full:
            yield from node.attributes["else_branch"].as_graph().all_nodes()
        elif node.inputs[0] is places.pays:
            yield from node.attributes["then_branch"].as_graph().all_nodes()
