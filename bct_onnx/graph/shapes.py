"""Types and shapes of the values between the nodes: forgotten where they may be stale, and inferred anew.

Exporters, optimizers and quantizers leave shapes behind that no longer hold. Only what the inputs, outputs and
initializers declare is trusted here; everything else is recomputed by ONNX shape inference, which sees a skeleton of
the model: big weights stand in it as inputs, so their data is neither read nor copied. Names of dimensions, which ONNX
shape inference soon loses, are carried on by `bct_onnx.graph.dims`.
"""

from __future__ import annotations

import itertools

import onnx
import onnx_ir as ir

from bct_onnx.graph import maps, protobuf, stand_ins, walk
from bct_onnx.graph.dims import Tracker
from bct_onnx.graph.names import by_name, names_of
from bct_onnx.graph.neighbours import outputs_of

_SKELETON_LIMIT = 1024
"""Initializers of more than this many bytes take part by type and shape alone."""

_LONGEST_SHAPE = 1024
"""Vectors of more integers hold no shape. ONNX follows a vector's numbers one by one, known or not: with the packed
codes of a whole weight that takes gigabytes."""

_LONGEST_FOLLOWED = 1 << 19
"""Where a vector is longer, of any type, no data is followed: at 2^22 numbers that takes 1.3 GB, at 2^31 the machine's
memory. The longest lists of words that models have are half as long."""

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)


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
    values = list(itertools.filterfalse(ir.Value.is_graph_output, outputs_of(model.graph.all_nodes())))
    types = [value.type for value in values]
    for value in values:
        value.shape = None
        value.type = None
    proto = skeleton(model)
    stand_ins.replace(proto.graph)
    without_data = onnx.shape_inference.infer_shapes(proto)
    if _longest_vector(without_data.graph) <= _LONGEST_FOLLOWED:
        _merge(model, onnx.shape_inference.infer_shapes(proto, data_prop=True))
    if any(value.type is None for value in values):  # in some subgraphs following data fails, and with it everything
        _merge(model, without_data)
    for value, old in zip(values, types, strict=True):
        value.type = value.type or old
    tracker = Tracker()
    for node in model.graph.all_nodes():
        tracker.visit(node)


def skeleton(model: ir.Model) -> onnx.ModelProto:
    """A copy of ``model`` as protobuf whose big initializers are inputs; small whatever the size of the model."""
    proto = onnx.ModelProto(ir_version=model.ir_version, graph=_graph(model.graph))
    for domain, version in model.opset_imports.items():
        proto.opset_import.add(domain=domain, version=version)
    proto.functions.extend(map(ir.serde.serialize_function, model.functions.values()))
    _forget_names(proto.graph)
    for info in proto.graph.input:
        _forget_negative_sizes(info)
    return proto


def _graph(graph: ir.Graph) -> onnx.GraphProto:
    proto = onnx.GraphProto(name=graph.name or "graph")
    proto.input.extend(map(ir.serde.serialize_value, graph.inputs))
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes <= _SKELETON_LIMIT:
            constant = ir.serde.serialize_tensor(tensor)
            constant.name = name
            proto.initializer.append(constant)
        if value.is_graph_input():
            continue
        if tensor is None or tensor.nbytes > _SKELETON_LIMIT:
            proto.input.append(_without_length(ir.serde.serialize_value(value)))
        else:
            proto.value_info.append(ir.serde.serialize_value(value))
    for node in graph:
        proto.node.append(ir.serde.serialize_node(node))
        known = [value for value in node.outputs if value.type is not None and not value.is_graph_output()]
        proto.value_info.extend(map(ir.serde.serialize_value, known))
    proto.output.extend(map(ir.serde.serialize_value, graph.outputs))
    return proto


def _longest_vector(graph: onnx.GraphProto) -> int:
    """The most numbers that a value of one axis is known to have, in subgraphs too."""
    longest = 0
    for info in (*graph.input, *graph.value_info, *graph.output):
        dims = info.type.tensor_type.shape.dim
        if len(dims) == 1:
            longest = max(longest, dims[0].dim_value)
    for node in graph.node:
        for inner in protobuf.subgraphs(node.attribute):
            longest = max(longest, _longest_vector(inner))
    return longest


def _without_length(info: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """The same value, of unknown length where it is a long vector of integers."""
    tensor = info.type.tensor_type
    dims = tensor.shape.dim
    if len(dims) == 1 and dims[0].dim_value > _LONGEST_SHAPE and tensor.elem_type not in _FLOATS:
        dims[0].Clear()
    return info


def _forget_negative_sizes(info: onnx.ValueInfoProto) -> None:
    """Sizes below 0 are unknown ones to ONNX Runtime; ONNX shape inference may end the process on them."""
    for dim in info.type.tensor_type.shape.dim:
        if dim.dim_value < 0:
            dim.Clear()


def _forget_names(graph: onnx.GraphProto) -> None:
    """Leave out the names of dimensions that outputs declare: nobody checks them, and none is to be relied on."""
    inputs = set(names_of(graph.input))
    for info in graph.output:
        if info.name not in inputs:
            for dim in info.type.tensor_type.shape.dim:
                dim.ClearField("dim_param")
    for node in graph.node:
        for inner in protobuf.subgraphs(node.attribute):
            _forget_names(inner)


def _merge(model: ir.Model, proto: onnx.ModelProto) -> None:
    maps.take(proto.graph)
    _merge_graph(model.graph, proto.graph)


def _merge_graph(graph: ir.Graph, proto: onnx.GraphProto) -> None:
    """Take what is not known yet of what nodes give. Stand-ins hold no graphs: inner graphs pair up in order."""
    known = by_name((*proto.value_info, *proto.output))
    inner: list[ir.Graph] = []
    for node in graph:
        inner += walk.inner(node)
        for value in node.outputs:
            if value.name in known and (value.type is None or value.shape is None):
                other = ir.serde.deserialize_value_info_proto(known[value.name], None)
                value.type = value.type or other.type
                value.shape = other.shape if value.shape is None else value.shape
    inferred: list[onnx.GraphProto] = []
    for message in proto.node:
        inferred += protobuf.subgraphs(message.attribute)
    for held, its_proto in zip(inner, inferred, strict=True):
        _merge_graph(held, its_proto)
