"""Take a node out whose output equals its first input."""

from __future__ import annotations

import onnx_ir as ir


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
