"""What a file declares of its values, kept where it can be true."""

from __future__ import annotations

import onnx

from bct_onnx.graph import protobuf
from bct_onnx.graph.names import names_of, without


def settle(graph: onnx.GraphProto) -> None:
    """Put declarations of a graph and its subgraphs right, in place.

    Outputs that are inputs are declared as the inputs are: one value has one type, and its origin knows it best. What
    is declared of weights is forgotten, since their data may be something else.
    """
    known = {info.name: info.type for info in graph.input}
    for info in graph.output:
        if info.name in known:
            info.type.CopyFrom(known[info.name])
    weights = set(names_of(graph.initializer))
    declared = without(graph.value_info, weights)
    if len(declared) < len(graph.value_info):
        del graph.value_info[:]
        graph.value_info.extend(declared)
    for node in graph.node:
        for inner in protobuf.subgraphs(node.attribute):
            settle(inner)
