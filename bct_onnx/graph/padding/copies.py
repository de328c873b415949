"""Nodes of a group written once more, for one branch of a choice each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bct_onnx.graph.branches import Nodes


def copied(node: ir.Node, replaced: dict[ir.Value, ir.Value]) -> ir.Node:
    """A node that reads what stands for its inputs; its results are noted for those that read them."""
    inputs = [None if value is None else replaced.get(value, value) for value in node.inputs]
    copy = ir.Node(
        node.domain, node.op_type, inputs, node.attributes.values(), num_outputs=len(node.outputs), name=node.name
    )
    copy.metadata_props.update(node.metadata_props)  # what it stands for
    for value, new in zip(node.outputs, copy.outputs, strict=True):
        replaced[value] = new
        new.type = value.type
    return copy


def either(
    label: str, condition: ir.Value, new: Nodes, given: Sequence[ir.Value], old: Nodes, others: Sequence[ir.Value]
) -> ir.Node:
    """An ``If`` of two branches that give the same."""
    choice = ir.node("If", [condition], num_outputs=len(given), name=label)
    for name, nodes, outputs in (("then_branch", new, given), ("else_branch", old, others)):
        for number, value in enumerate(outputs):
            value.name = f"{label}/{name}_{number}"  # no other branch has it
        branch = ir.Graph([], outputs, nodes=nodes.nodes, name=f"{label}/{name}")
        choice.attributes[name] = ir.AttrGraph(name, branch)
    return choice


def two(nodes: Nodes, op_type: str, *inputs: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The two outputs of a new node."""
    node = ir.node(op_type, inputs, num_outputs=2, name=f"{nodes.label}/{op_type}")
    nodes.nodes.append(node)
    return node.outputs[0], node.outputs[1]


def nothing(nodes: Nodes, kind: ir.DataType) -> ir.Value:
    """What a branch gives that nobody reads where it runs, of a type: a constant, which takes no time."""
    return nodes.op("Constant", value=ir.Tensor(np.zeros(1, kind.numpy())))
