"""The layers of a transformer: the part of a graph that repeats, found by its repetition."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Sequence

import onnx_ir as ir

from bct_onnx.graph import tensors
from bct_onnx.graph.names import names_of
from bct_onnx.graph.neighbours import leads_out, outputs_of, provided

_LEAST = 4
"""Nodes of a layer: what repeats in fewer is no layer."""


_WEIGHT = 256
"""Values of a tensor that counts as a weight."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """One of the repeated parts of a graph.

    Attributes:
        nodes: In the order in which they run.
        entering: The value that it gets from the layer before, or from what stands in front of the first.
        leaving: The value that the next one gets.
    """

    nodes: tuple[ir.Node, ...]
    entering: ir.Value
    leaving: ir.Value

    @property
    def gives(self) -> list[str]:
        """Names of the outputs of the model that it makes."""
        return names_of(filter(ir.Value.is_graph_output, outputs_of(self.nodes)))


def bypass(every: Sequence[Layer], numbers: Container[int]) -> None:
    """Let what goes into some of the layers of a graph go into what is behind them; nobody reads them any more."""
    standing: dict[ir.Value, ir.Value] = {}  # for what a bypassed layer gave
    for number, layer in enumerate(every):
        if number in numbers:
            standing[layer.leaving] = standing.get(layer.entering, layer.entering)
            layer.leaving.replace_all_uses_with(standing[layer.leaving])


def layers(graph: ir.Graph) -> list[Layer]:
    """The layers in their order; none where a graph does not repeat itself, or hands on more than one value.

    A layer is a stretch of nodes of the same operators, attributes and shapes of constants as the one behind it. Of all
    lengths the one counts that covers most nodes, of all places to cut at which one value goes on the one that makes
    most layers.
    """
    nodes = _weighted(graph)
    start, period, stop = _repetition(list(map(_signature, nodes)))
    if period < _LEAST:
        return []
    best: list[Layer] = []
    for first in range(start, start + period):
        parts = [nodes[at : at + period] for at in range(first, stop - period + 1, period)]
        cut = _cut(parts) if len(parts) > 1 else []
        best = max(best, cut, key=len)  # the first of equal ones
    return best


def _repetition(signatures: Sequence[object]) -> tuple[int, int, int]:
    """Start, length and end of what repeats over most nodes, the shortest of equal ones; zeros where nothing does."""
    best = (0, 0, 0)
    for period in range(1, len(signatures) // 2 + 1):
        begin = 0
        for at in range(len(signatures) - period + 1):
            if at < len(signatures) - period and signatures[at] == signatures[at + period]:
                continue
            if at - begin >= period and at + period - begin > best[2] - best[0]:
                best = (begin, period, at + period)
            begin = at + 1
    start, period, stop = best
    return start, period, stop


def _cut(parts: Sequence[Sequence[ir.Node]]) -> list[Layer]:
    """The layers that these nodes are; none where not exactly one value goes from each to those behind."""
    leaving: list[ir.Value] = []
    for part in parts:
        inside = set(part)
        values = [value for value in outputs_of(part) if leads_out(value, inside)]
        if len(values) != 1:
            return []
        leaving.append(values[0])
    places: list[tuple[int, int]] = []
    for number, node in enumerate(parts[1]):
        places += [(number, index) for index, value in enumerate(node.inputs) if value is leaving[0]]
    layers: list[Layer] = []
    for part, value in zip(parts, leaving, strict=True):
        entering = {part[number].inputs[index] for number, index in places}
        before = entering.pop() if len(entering) == 1 else None
        if before is None or (layers and before is not layers[-1].leaving):
            return []
        layers.append(Layer(tuple(part), before, value))
    return layers


def _weighted(graph: ir.Graph) -> list[ir.Node]:
    """The nodes that depend on a weight: masks and positions are computed once for all layers, in the midst of one."""
    inside: set[ir.Value] = set()
    nodes: list[ir.Node] = []
    for node in graph:
        used = provided(node.inputs)
        if node.op_type != "Shape" and any(value in inside or _is_weight(value) for value in used):
            inside.update(node.outputs)
            if any(value in inside or not value.is_initializer() for value in used):
                nodes.append(node)
    return nodes


def _is_weight(value: ir.Value) -> bool:
    tensor = value.const_value
    return value.is_initializer() and tensor is not None and tensor.dtype in tensors.FLOATS and tensor.size >= _WEIGHT


def _signature(node: ir.Node) -> object:
    attributes = tuple(sorted((name, str(attribute.value)) for name, attribute in node.attributes.items()))
    shapes: list[object] = []
    for value in node.inputs:
        is_weight = value is not None and value.is_initializer()
        shapes.append(str(value.shape) if value is not None and is_weight else value is None)
    return node.op_identifier(), attributes, tuple(shapes)
