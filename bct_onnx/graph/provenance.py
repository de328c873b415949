"""Who made a node, and from what: stamps in ``metadata_props`` that Netron shows beside each node."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import onnx_ir as ir

from bct_onnx.graph import walk
from bct_onnx.graph.names import names_of
from bct_onnx.graph.neighbours import outputs_of, values_of

PASS = "bct_onnx.pass"
REPLACED = "bct_onnx.replaced"
STAMPS = (PASS, REPLACED)


@contextlib.contextmanager
def stamping(model: ir.Model, pass_name: str) -> Iterator[list[ir.Node]]:
    """Stamp every node that appears in ``model`` inside the block as made by ``pass_name``, under a name of its own.

    What it gives is empty, and has these nodes after the block. Nodes of functions are no part of the model but of what
    the function is, which its description says.
    """
    nodes: list[ir.Node] = []
    kept = list(walk.nodes(model.graph))  # keeps the old nodes alive, so that no id is used twice
    before = set(map(id, kept))
    yield nodes
    nodes += [node for node in walk.nodes(model.graph) if id(node) not in before]
    names = {node.name: 0 for node in kept}
    for node in nodes:
        node.metadata_props.setdefault(PASS, pass_name)
        node.name = _free(node.name or node.op_type, names)
    for graph in walk.graphs(model.graph):  # a node that left its branch may meet its namesake
        in_graph: set[str | None] = set()
        for node in graph:
            if node.name and node.name in in_graph:
                node.name = _free(node.name, names)
            in_graph.add(node.name)
    _name_values(model, nodes)
    del kept


def replaced(new: Iterable[ir.Node], old: Iterable[ir.Node]) -> None:
    """Write the names of ``old`` (and of what these had replaced) on every node of ``new``."""
    names = [node.metadata_props.get(REPLACED) or node.name or node.op_type for node in old]
    unique = list(dict.fromkeys(" ".join(names).split(" ")))
    for node in new:
        node.metadata_props.setdefault(REPLACED, " ".join(unique))


def _name_values(model: ir.Model, nodes: list[ir.Node]) -> None:
    """Number what new nodes give where a value of another graph has its name: an inner value may not hide an outer
    one."""
    outputs = {id(value) for value in outputs_of(nodes) if not value.is_graph_output()}
    every = list(outputs_of(walk.nodes(model.graph)))
    graphs = walk.graphs(model.graph)
    for graph in graphs:
        every += [*graph.inputs, *graph.initializers.values()]
    names = {value.name: 0 for value in every if id(value) not in outputs}
    for value in every:
        if id(value) in outputs:
            value.name = _free(value.name or "value", names)
    if len(graphs) > 1:
        _unhide(model.graph, frozenset(), names)


def _unhide(graph: ir.Graph, outer: frozenset[str | None], names: dict[str | None, int]) -> None:
    """Number the constants of inner graphs that have the name of an outer value: ONNX Runtime 1.23 takes one for the
    other."""
    for value in list(graph.initializers.values()):
        if value.name in outer:
            value.name = _free(value.name or "value", names)
    visible = outer | set(names_of(values_of(graph)))
    for node in graph:
        for held in walk.inner(node):
            _unhide(held, visible, names)


def _free(name: str, taken: dict[str | None, int]) -> str:
    """``name``, or with the first free number behind it: runtimes refuse two nodes of one name."""
    free = name
    while free in taken:
        taken[name] += 1
        free = f"{name}_{taken[name]}"
    taken[free] = 0
    return free
