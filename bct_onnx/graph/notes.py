"""What a file says to its readers and no runtime needs: which pass made a node and from what, types of inner values.

In a model of some hundred kilobytes such notes would take more bytes than the biases and scales together.
"""

from __future__ import annotations

from typing import Any

import onnx

from bct_onnx.graph import provenance
from bct_onnx.graph.names import without
from bct_onnx.graph.protobuf import subgraphs


def spare(proto: onnx.ModelProto, data: int, share: float) -> None:
    """Remove the notes of ``proto`` where they take more than ``share`` of a file that has ``data`` bytes of weights.

    Notes are the stamps of passes on nodes, and the types of values that standard operators give: those every runtime
    infers. Notes that the model came with stay on its nodes.
    """
    lean = onnx.ModelProto()
    lean.CopyFrom(proto)
    _strip(lean.graph)
    if proto.ByteSize() - lean.ByteSize() > share * (proto.ByteSize() + data):
        _strip(proto.graph)


def _strip(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        _keep(node.metadata_props, [entry for entry in node.metadata_props if entry.key not in provenance.STAMPS])
        for inner in subgraphs(node.attribute):
            _strip(inner)
    inferred: set[str] = set()
    for node in graph.node:
        if not node.domain:
            inferred.update(node.output)
    _keep(graph.value_info, without(graph.value_info, inferred))


def _keep(field: Any, kept: list[Any]) -> None:
    del field[:]
    field.extend(kept)
