"""Replace normalizations that give codes by integer arithmetic."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from bct_onnx.base import Declined, NodePass, Outcome, Site, Stage
from bct_onnx.forms import codes
from bct_onnx.graph import functions
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.known import is_last_axis, size_of
from bct_onnx.graph.neighbours import is_read, provided

FUNCTIONS = {"LayerNormalization": "IntegerLayerNorm", "RMSNormalization": "IntegerRMSNorm"}


@dataclasses.dataclass(frozen=True)
class IntegerLayerNorm(NodePass):
    """Replace every ``LayerNormalization`` and ``RMSNormalization`` between codes by a function of integers.

    Why:
        Mean and variance are sums of integers, and the square root is four steps of Newton's method per row (I-BERT).

    Before/after:
        ``Q(LayerNormalization(DQ(codes), gamma, beta))`` becomes ``IntegerLayerNorm(codes, gamma, beta, ...)``, one
        box. The codes going in may have 8, 16 or 32 bits: 32 where integer-add has made them.

    Declines:
        A normalization over more than the last axis, whose scale or bias is computed, or whose input or output is not
        quantized with one constant scale (see quantize-intermediates).

    Options:
        None.

    Promise:
        Bounded: about one step of the output (see bct_onnx/integer/layer_norm.py).
    """

    name: ClassVar[str] = "integer-layer-norm"
    stage: ClassVar[Stage] = Stage.INTEGER
    promise: ClassVar[str] = "bounded"
    operators: ClassVar[tuple[str, ...]] = tuple(FUNCTIONS)

    def rewrite(self, node: ir.Node, model: ir.Model) -> Outcome:
        """Replace one normalization."""
        place = node.name or node.outputs[0].name or node.op_type
        if reason := _refuse(node):
            return Declined(place, reason)
        x, quantize = codes.read(node.inputs[0]), codes.quantized_to_bytes(node.outputs[0])
        assert x is not None and quantize is not None
        edit = Edit(quantize, node.name or "")
        parameters = _parameters(edit, node)
        kind = x.codes.dtype or ir.DataType.UINT8
        zero: tuple[ir.Value, ...] = ()
        if node.op_type == "RMSNormalization":  # the other does not depend on it
            zero = (x.zero_point or edit.scalar("zero_point", 0, kind),)
        epsilon = edit.scalar("epsilon", node.attributes.get_float("epsilon", 1e-5), ir.DataType.FLOAT)
        name = FUNCTIONS[node.op_type]
        inputs = (x.codes, x.scale, *zero, *parameters, epsilon, *quantize.inputs[1:3])
        result = edit.op(name, *inputs, domain=functions.use(model, name), name="codes")
        result.type, result.shape = quantize.outputs[0].type, quantize.outputs[0].shape
        edit.replace(quantize.outputs[0], result, also=[node, *x.nodes])
        return Site(place, (node.op_type,), f"{name} of {kind.name.lower()}")


def _refuse(node: ir.Node) -> str:
    x = codes.read(node.inputs[0])
    if not is_last_axis(node.attributes.get_int("axis", -1), node.inputs[0]):
        return "over more than the last axis"
    if x is None or x.factors is not None:
        return "its input is not quantized with one constant scale"
    if codes.quantized_to_bytes(node.outputs[0]) is None:
        return "its result is not quantized with one constant scale"
    if any(map(is_read, node.outputs[1:])):
        return "its mean or deviation is used"
    arrays = list(map(codes.vector, provided(node.inputs[1:])))
    known = provided(arrays)
    if len(known) < len(arrays):
        return "its scale or bias is computed"
    if not set(map(np.shape, known)) <= {(size_of(node.inputs[0], -1),)}:
        return "its scale or bias has not one number per channel"
    return ""


def _parameters(edit: Edit, node: ir.Node) -> list[ir.Value]:
    """Scale and bias as float32; a layer normalization always gets a bias."""
    parameters: list[ir.Value] = []
    for value in node.inputs[1:]:
        if value is not None and value.dtype == ir.DataType.FLOAT:
            parameters.append(value)
        elif value is not None:
            parameters.append(edit.op("Cast", value, to=ir.DataType.FLOAT, name="parameter"))
    if node.op_type == "LayerNormalization" and len(parameters) == 1:
        parameters.append(edit.op("Sub", parameters[0], parameters[0], name="no_bias"))
    return parameters
