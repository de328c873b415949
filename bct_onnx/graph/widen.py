"""bfloat16 becomes float32: every bfloat16 number is one, and runtimes for CPUs have few operators of bfloat16."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bct_onnx.graph import optional
from bct_onnx.graph.identity import bypass
from bct_onnx.graph.known import dtypes_of
from bct_onnx.graph.neighbours import values_of

_TYPE_NAMES = {"dtype", "output_dtype", "softmax_precision", "stash_type", "to"}
"""Attributes that hold an element type."""


def is_narrow(model: ir.Model) -> bool:
    """Whether a weight, or an input or output of the model, is bfloat16."""
    values = (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values())
    return ir.DataType.BFLOAT16 in dtypes_of(values)


def widen(model: ir.Model) -> int:
    """Make every bfloat16 of a model without functions float32, in place: inputs and outputs too.

    Weights are converted when they are read. Casts that have become casts of float32 to float32 go.

    Returns:
        How many values changed their type.
    """
    changed = 0
    for graph in model.graphs():
        for value in values_of(graph):
            changed += _widen_value(value)
        for node in list(graph):
            _widen_attributes(node)
    for node in list(filter(_casts_nothing, model.graph.all_nodes())):
        bypass(node)
    return changed


def _widen_value(value: ir.Value) -> bool:
    if value.const_value is not None and value.const_value.dtype == ir.DataType.BFLOAT16:
        value.const_value = _widened(value.const_value)
    if (default := value.meta.get(optional.DEFAULT)) is not None and default.dtype == ir.DataType.BFLOAT16:
        value.meta[optional.DEFAULT] = _widened(default)
    if value.dtype != ir.DataType.BFLOAT16:
        return False
    value.type = ir.TensorType(ir.DataType.FLOAT)  # its own: copies of a model share the types of their values
    return True


def _widened(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    def read() -> ir.TensorProtocol:
        return ir.Tensor(tensor.numpy().astype(np.float32), name=tensor.name)

    return ir.LazyTensor(read, ir.DataType.FLOAT, ir.Shape(tensor.shape.numpy()), name=tensor.name)


def _widen_attributes(node: ir.Node) -> None:
    for attribute in list(node.attributes.values()):
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == ir.DataType.BFLOAT16:
            node.attributes[attribute.name] = ir.AttrTensor(attribute.name, _widened(attribute.as_tensor()))
        elif (
            attribute.name in _TYPE_NAMES
            and attribute.type == ir.AttributeType.INT
            and attribute.as_int() == ir.DataType.BFLOAT16
        ):
            node.attributes[attribute.name] = ir.AttrInt64(attribute.name, ir.DataType.FLOAT.value)


def _casts_nothing(node: ir.Node) -> bool:
    if node.op_type != "Cast" or node.domain or node.inputs[0] is None:
        return False
    return node.inputs[0].dtype == ir.DataType.FLOAT and node.attributes.get_int("to") == ir.DataType.FLOAT
