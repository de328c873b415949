"""Outputs that are maps, as classifiers with named classes give them.

onnx_ir cannot hold their types, so that these wait beside the graph until it is serialized.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from bct_onnx.graph.protobuf import subgraphs

TYPES = "bct_onnx.maps"
"""Key in `onnx_ir.Graph.meta` of the types of outputs that are maps or hold such, by name."""

Types = dict[str, onnx.TypeProto]


def take(graph: onnx.GraphProto) -> Types:
    """Remove the types that onnx_ir cannot hold from a graph and its subgraphs; those of its outputs."""
    for node in graph.node:
        for inner in subgraphs(node.attribute):
            take(inner)
    for i in reversed(range(len(graph.value_info))):
        if _holds_map(graph.value_info[i].type):
            del graph.value_info[i]
    declared = {info.name: onnx.TypeProto.FromString(info.type.SerializeToString()) for info in graph.output}
    for info in graph.output:
        if _holds_map(info.type):
            info.ClearField("type")
    return {name: kind for name, kind in declared.items() if _holds_map(kind)}


def give(graph: ir.Graph, proto: onnx.GraphProto) -> None:
    """Put the types back into the message of a graph."""
    types = graph.meta.get(TYPES, {})
    for info in proto.output:
        if info.name in types:
            info.type.CopyFrom(types[info.name])


def _holds_map(kind: onnx.TypeProto) -> bool:
    which = kind.WhichOneof("value")
    if which == "sequence_type":
        return _holds_map(kind.sequence_type.elem_type)
    return which == "map_type" or (which == "optional_type" and _holds_map(kind.optional_type.elem_type))
