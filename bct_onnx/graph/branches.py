"""Two forms of a part of a graph, one of which runs: an `If` whose branches hold nodes of the graph around it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import LiftSubgraphInitializersToMainGraphPass

from bct_onnx.graph import names, provenance, walk
from bct_onnx.graph.edit import Edit, drop_dead
from bct_onnx.graph.neighbours import is_read, outputs_of, producer, producers
from bct_onnx.graph.tensors import is_constant_expression


class Nodes:
    """Nodes that are in no graph yet, in order.

    Args:
        label: Stem for their names.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.nodes: list[ir.Node] = []

    def op(self, op_type: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any) -> ir.Value:
        """Add one and return its first output."""
        name = f"{self.label}/{op_type}"
        self.nodes.append(ir.node(op_type, inputs, attributes or None, domain=domain, name=name))
        return self.nodes[-1].outputs[0]


def exclusive(nodes: Collection[ir.Node], graph: ir.Graph) -> list[ir.Node]:
    """``nodes`` and those before them that serve them alone, in the order of ``graph``; what is constant stays out."""
    exclusives = set(nodes)
    queue = list(nodes)
    while queue:
        for value in queue.pop().inputs:
            node = producer(value)
            if node is None or node in exclusives or node.graph is not graph or is_constant_expression(value):
                continue
            leaves = any(map(ir.Value.is_graph_output, node.outputs))
            if not leaves and exclusives.issuperset(node.successors()):
                exclusives.add(node)
                queue.append(node)
    return walk.in_order(exclusives, graph)


def either(
    condition: ir.Value, new: Sequence[ir.Node], results: Sequence[ir.Value], old: Sequence[ir.Value], label: str
) -> ir.Node:
    """Put an ``If`` where ``old`` values are made: ``new`` nodes, which make ``results``, run if the condition holds.

    Else the nodes run that make ``old`` now, with all that serves them alone; they move into the branch. The graph has
    to be sorted afterwards. Return the ``If``, which has a name that starts with ``label``.
    """
    makers = producers(old)
    graph = makers[0].graph
    assert isinstance(graph, ir.Graph) and len(makers) == len(old)
    choice = ir.node("If", [condition], num_outputs=len(old), name=label)
    graph.insert_before(makers[0], choice)
    for value, result, before in zip(choice.outputs, results, old, strict=True):
        value.type, value.shape = before.type, before.shape
        value.meta.update(before.meta)
        name, before.name = before.name, f"{before.name}.else"
        result.name = f"{name}.then"
        before.replace_all_uses_with(value, replace_graph_outputs=True)
        value.name = name
    moved = exclusive(makers, graph)
    graph.remove(moved)
    for name, nodes, outputs in (("then_branch", new, results), ("else_branch", moved, old)):
        branch = ir.Graph([], outputs, nodes=nodes, opset_imports=graph.opset_imports, name=f"{label}/{name}")
        choice.attributes[name] = ir.AttrGraph(name, branch)
    provenance.replaced([choice, *new], makers)
    return choice


def inline(choice: ir.Node, taken: str) -> None:
    """Put what a branch of an ``If`` computes in its place; what the other holds goes.

    Args:
        choice: The ``If``.
        taken: ``then_branch`` or ``else_branch``.
    """
    outer = choice.graph
    assert isinstance(outer, ir.Graph)
    edit = Edit(choice)
    branch = choice.attributes[taken].as_graph()
    results, nodes, constants = list(branch.outputs), list(branch), list(branch.initializers.values())
    for name, attribute in choice.attributes.items():  # of the branch that never runs as well: none is to be visited
        inner = attribute.as_graph()
        inner.outputs.clear()
        if name != taken:
            _let_go(inner)
        inner.remove(list(inner))
    branch.initializers.clear()
    for value in (*constants, *outputs_of(nodes)):
        value.name = names.fresh_name(outer, value.name or "value")  # the branches of two may use one name
        if value.const_value is not None:
            outer.register_initializer(value)
    outer.insert_before(choice, nodes)
    for old, new in zip(list(choice.outputs), results, strict=True):
        if is_read(old):  # the last that is takes the choice with it
            edit.replace(old, edit.op("Identity", new))
    drop_dead([choice])


def _let_go(graph: ir.Graph) -> None:
    """Let the nodes of a graph that is given up use nothing any more, so that no value has users among them."""
    for node in graph.all_nodes():
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)


def own_constants(model: ir.Model) -> None:
    """Let the root graph own the constants that a pass has made in a branch or a body of a loop.

    There they could have the name of one of a graph around them, and hide it.
    """
    if any(graph.initializers for graph in walk.graphs(model.graph)[1:]):
        LiftSubgraphInitializersToMainGraphPass()(model)
