"""The biases of normalizations, in a model as it is now and in the same model before."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from bct_onnx.base import Declined
from bct_onnx.forms import codes
from bct_onnx.graph import tensors
from bct_onnx.graph.names import names_of
from bct_onnx.graph.neighbours import operand

BIAS = 2
"""Which operand of ``LayerNormalization`` it is."""


@dataclasses.dataclass(frozen=True)
class Bias:
    """A constant vector [D] that a ``LayerNormalization`` adds to every row.

    Attributes:
        node: The normalization.
        value: The vector, an initializer.
        tensor: Its data.
        before: Name of what the same normalization gave in the model before.
    """

    node: ir.Node
    value: ir.Value
    tensor: ir.TensorProtocol
    before: str

    @property
    def output(self) -> str:
        """Name of what the normalization gives, as floats."""
        return self.node.outputs[0].name or ""

    @property
    def size(self) -> int:
        """D."""
        return self.tensor.size


def biases(graph: ir.Graph, before: ir.Graph) -> tuple[list[Bias], list[Declined]]:
    """The biases in running order, and those that other nodes use as well."""
    makers: dict[str | None, ir.Node] = {}
    for node in before:
        makers |= dict.fromkeys(names_of(node.outputs), node)
    alone: list[Bias] = []
    declined: list[Declined] = []
    for node in graph:
        vector = operand(node, BIAS)
        if node.op_type != "LayerNormalization" or vector is None or not vector.is_initializer():
            continue
        same = [name for name in _names(node.outputs[0]) if name in makers and makers[name].op_type == node.op_type]
        tensor = vector.const_value
        if not same or tensor is None or len(tensor.shape) != 1 or tensor.dtype not in tensors.FLOATS:
            continue
        if len(list(vector.uses())) > 1:
            declined.append(Declined(same[0], f"its bias '{vector.name}' is used elsewhere"))
        else:
            alone.append(Bias(node, vector, tensor, same[0]))
    return alone, declined


def _names(value: ir.Value) -> list[str]:
    """What a value is called, and what its codes stand for: these took its name when it was quantized."""
    quantizer = codes.quantized(value)
    values = [value] if quantizer is None else [value, *codes.values_of(quantizer.outputs[0])]
    return names_of(values)
