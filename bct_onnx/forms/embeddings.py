"""An embedding table of floats [V, D]: rows of it are looked up, and a tied output layer multiplies by it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import onnx_ir as ir

from bct_onnx.forms.linear import Linear
from bct_onnx.graph import tensors
from bct_onnx.graph.neighbours import readers_of
from bct_onnx.runtime.statistics import ChannelStatistics


@dataclasses.dataclass(frozen=True)
class Embedding:
    """An initializer that some Gather looks rows up in.

    Attributes:
        value: The initializer.
        tensor: Its data, [V, D] where it is a matrix.
        lookups: The Gathers along axis 0.
        layers: The linear layers that multiply by its transpose [D, V].
        operators: All operators that read it, tied ones before lookups.
        others: Those that are neither, sorted.
    """

    value: ir.Value
    tensor: ir.TensorProtocol
    lookups: tuple[ir.Node, ...]
    layers: tuple[Linear, ...]
    operators: tuple[str, ...]
    others: tuple[str, ...]

    @classmethod
    def of(cls, value: ir.Value) -> Embedding | None:
        """What an initializer is used for; None where it is no table of floats."""
        tensor, lookups = value.const_value, tuple(filter(_is_lookup, value.consumers()))
        if tensor is None or tensor.dtype not in tensors.FLOATS or not lookups:
            return None
        layers: list[Linear] = []
        operators: list[str] = []
        others: set[str] = set()
        for node, _ in value.uses():
            if _is_lookup(node):
                continue
            tied = _tied(node)
            layers += tied
            operators.append(node.op_type)
            if not tied:
                others.add(node.op_type)
        operators = list(dict.fromkeys([*operators, "Gather"]))
        return cls(value, tensor, lookups, tuple(layers), tuple(operators), tuple(sorted(others)))

    @property
    def name(self) -> str:
        """Of the initializer."""
        return self.value.name or "table"

    @property
    def statistics(self) -> list[ChannelStatistics]:
        """What calibrate has measured of the inputs of the layers."""
        return [layer.statistics for layer in self.layers if layer.statistics is not None]


def embeddings(model: ir.Model) -> Iterator[Embedding]:
    """Every embedding table of a model, of its subgraphs too."""
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in list(graph.initializers.values()):
            table = Embedding.of(value)
            if table is not None:
                yield table


def _is_lookup(node: ir.Node) -> bool:
    return node.op_identifier() == ("", "Gather", "") and node.attributes.get_int("axis", 0) == 0


def _tied(node: ir.Node) -> list[Linear]:
    """The linear layers that multiply by the table behind ``node`` (its Transpose, or themselves), transposed."""
    users = [node]
    if node.op_type == "Transpose":
        users = readers_of(node.outputs[0])
    layers = []
    for user in users:
        layer = Linear.of(user)
        if layer is None or not (layer.transposed and layer.tied):
            return []
        layers.append(layer)
    return layers
