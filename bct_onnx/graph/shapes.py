"""Types and shapes of the values between the nodes: forgotten where they may be stale, and inferred anew.

Exporters, optimizers and quantizers leave shapes behind that no longer hold. Only what the inputs, outputs and
initializers declare is trusted here; everything else is recomputed by ONNX shape inference, which sees a skeleton of
the model: big weights stand in it as inputs, so their data is neither read nor copied. Names of dimensions, which ONNX
shape inference soon loses, are carried on by `bct_onnx.graph.dims`.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from bct_onnx.graph import maps, stand_ins
from bct_onnx.graph.dims import Tracker
from bct_onnx.graph.neighbours import outputs_of

_SKELETON_LIMIT = 1024
"""Initializers of more than this many bytes take part by type and shape alone."""


def infer(model: ir.Model) -> None:
    """Replace the types and shapes of all intermediate values by inferred ones.

    Declared inputs and outputs keep what they declare. ONNX Runtime's own operators take part (see `stand_ins`). A
    value about which inference says nothing (behind an operator without a schema) keeps its element type and loses its
    shape.
    """
    for graph in model.graphs():
        for initializer in graph.initializers.values():
            if (tensor := initializer.const_value) is not None:
                initializer.type, initializer.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
    values = [value for value in _intermediate(model) if value is not None]
    types = [value.type for value in values]
    for value in values:
        value.shape = None
        value.type = None
    proto = skeleton(model)
    stand_ins.replace(proto.graph)
    _merge(model, onnx.shape_inference.infer_shapes(proto, data_prop=True))
    if any(value.type is None for value in values):  # in some subgraphs following data fails, and with it everything
        _merge(model, onnx.shape_inference.infer_shapes(proto))
    for value, old in zip(values, types, strict=True):
        value.type = value.type or old
    tracker = Tracker()
    for node in model.graph.all_nodes():
        tracker.visit(node)


def skeleton(model: ir.Model) -> onnx.ModelProto:
    """A copy of ``model`` as protobuf whose big initializers are inputs; small whatever the size of the model."""
    copy = model.clone()
    for name, value in list(copy.graph.initializers.items()):
        if value.const_value is None or value.const_value.nbytes > _SKELETON_LIMIT:
            del copy.graph.initializers[name]
            value.const_value = None
            if not value.is_graph_input():
                copy.graph.inputs.append(value)
    for graph in copy.graphs():  # nobody checks the names that outputs are declared with: none is to be relied on
        for output in graph.outputs:
            if output.shape is not None and not output.is_graph_input():
                output.shape = ir.Shape([size if isinstance(size, int) else None for size in output.shape])
    return ir.to_proto(copy)


def _intermediate(model: ir.Model) -> Iterator[ir.Value]:
    return (value for value in outputs_of(model.graph.all_nodes()) if not value.is_graph_output())


def _merge(model: ir.Model, proto: onnx.ModelProto) -> None:
    maps.take(proto.graph)
    inferred = ir.from_proto(proto)
    for graph, known in zip(
        (model.graph, *model.graph.subgraphs()), (inferred.graph, *inferred.graph.subgraphs()), strict=True
    ):
        by_name = {value.name: value for value in outputs_of(known)}
        for value in outputs_of(graph):
            other = by_name.get(value.name)
            if other is not None:
                value.type = value.type or other.type
                value.shape = value.shape if value.shape is not None else other.shape
