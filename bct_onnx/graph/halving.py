"""Float16 from one product to the next: which nodes can compute in it, and how they are written so."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import onnx_ir as ir

from bct_onnx.graph import tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.known import dtype_of
from bct_onnx.graph.neighbours import reached, sources
from bct_onnx.graph.operators import identifier
from bct_onnx.graph.possible import possible_values
from bct_onnx.graph.recognise.region import is_constant
from bct_onnx.quant import halves

HIDDEN = -30000.0
"""What hides a score: its probability is 0 in any float, and with any score added it is still a number."""

MASKS = {"Attention": 3, "com.microsoft::MultiHeadAttention": 5, "com.microsoft::GroupQueryAttention": 10}
"""Attentions, and the input of each that is added to scores."""

PAST = (4, 5)
"""Inputs of ``Attention``: keys and values of the past."""

NBITS, SCALES = "com.microsoft::MatMulNBits", 2
"""A product whose scales, made when a session is created, have no type in the graph."""

PRODUCTS = ("MatMul", "Gemm", NBITS, *MASKS)
"""What float16 is for."""

NORMS = ("LayerNormalization", "RMSNormalization")
"""They sum in float32 by their definition; what they give beside their result is float32."""

BETWEEN = (
    *("Add", "Sub", "Mul", "Div", "Neg", "Sum", "Where", "Gelu", "Relu", "Tanh", "Sigmoid", "Erf", "RotaryEmbedding"),
    *("Concat", "Expand", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
    *NORMS,
)
"""What computes in float16 on its way from a product to another."""


class Halving:
    """Gives one node after another float16 inputs; its results are cast back, for those who need that."""

    def __init__(self, graph: ir.Graph, largest: Mapping[str, float], limit: float) -> None:
        self._graph, self._largest, self._limit = graph, largest, limit
        self._halves: dict[tuple[ir.Value, bool], ir.Value] = {}
        self._leading = _leading(graph)

    def halve(self, node: ir.Node) -> ir.Node | str:
        """Compute one node in float16: what does so now, or why it stays; empty where that is no question."""
        floats = floats_of(node)
        follows = any(map(_source, floats.values()))
        if not floats or not (is_product(node) or (node in self._leading and follows)):
            return ""
        if len(node.outputs) > 1 and node.op_type in NORMS:
            return "it gives its mean or deviation too, in float32"
        if reason := self._refusal(node, floats):
            return reason
        edit = Edit(node)
        inputs = list(node.inputs)
        for place, value in floats.items():
            inputs[place] = self._half(edit, value, hides=MASKS.get(identifier(node)) == place and not _fits(value))
        attributes: dict[str, Any] = dict(node.attributes)
        count = len(node.outputs)
        halved = edit.op(node.op_type, *inputs, domain=node.domain, outputs=count, name="half", **attributes).producer()
        assert halved is not None
        for old, half in zip(list(node.outputs), halved.outputs, strict=True):
            if old.name == "":  # left out
                half.name = ""
                continue
            half.type, half.shape = ir.TensorType(ir.DataType.FLOAT16), old.shape
            wide = edit.op("Cast", half, to=ir.DataType.FLOAT, name="float")
            wide.type = ir.TensorType(ir.DataType.FLOAT)
            edit.replace(old, wide)
        return halved

    def finish(self) -> None:
        """Store every constant once: drop the float32 of those that are float16 now, cast those needed as both."""
        for (value, _), half in self._halves.items():
            if not is_constant(value):
                continue
            if value.is_initializer() and not value.uses() and not value.is_graph_output():
                del self._graph.initializers[value.name or ""]
            elif value.uses():
                cast = Edit(self._graph[0], value.name or "").op("Cast", value, to=ir.DataType.FLOAT16, name="half")
                cast.type, cast.shape = half.type, half.shape
                half.replace_all_uses_with(cast)
                del self._graph.initializers[half.name or ""]

    def _refusal(self, node: ir.Node, floats: Mapping[int, ir.Value]) -> str:
        for value in floats.values():
            for constant in _constants(value):
                if not _holds(constant):
                    return f"float16 does not hold the values of '{constant.name}'"
        if node.op_type == "Attention" and not floats.keys().isdisjoint(PAST):
            return "keys and values of the past come in float32"
        mask = MASKS.get(identifier(node))
        values = [*(value for place, value in floats.items() if place != mask), *node.outputs]
        most = max((self._largest.get(value.name or "", 0.0) for value in values), default=0.0)
        if most > self._limit:
            return f"values up to {most:.0f} were seen here, and float16 ends at {halves.LARGEST:.0f}"
        return ""

    def _half(self, edit: Edit, value: ir.Value, *, hides: bool) -> ir.Value:
        """The float16 of a value: what it is the float32 of, or made once."""
        source = _source(value, stored=True)
        if source is not None and not hides:
            return source
        key = (value, hides)
        if key not in self._halves:
            self._halves[key] = self._stored(value) if is_constant(value) and not hides else _cast(edit, value, hides)
        return self._halves[key]

    def _stored(self, value: ir.Value) -> ir.Value:
        half, _ = halves.halved(tensors.array(value))
        tensors.release(value)
        return tensors.constant(self._graph, f"{value.name}.half", half)


def _leading(graph: ir.Graph) -> set[ir.Node]:
    """The nodes of a graph whose results reach a product by way of others that can compute in float16."""
    leading: set[ir.Node] = set()
    for node in reversed(graph):
        if identifier(node) not in BETWEEN:
            continue
        for user in node.successors():
            if user.graph is graph and (is_product(user) or user in leading):
                leading.add(node)
    return leading


def around(graph: ir.Graph) -> Iterator[ir.Value]:
    """The computed floats around nodes that can compute in float16."""
    around_nodes: dict[ir.Value, None] = {}
    for node in graph:
        if identifier(node) in PRODUCTS + BETWEEN and (floats := floats_of(node)):
            around_nodes.update(dict.fromkeys((*floats.values(), *node.outputs)))
    for value in around_nodes:
        computed = value.producer() is not None and not tensors.is_constant_expression(value)
        if value.name and computed and value.dtype in (ir.DataType.FLOAT, None):
            yield value


def is_product(node: ir.Node) -> bool:
    """Whether float16 is for this node."""
    return identifier(node) in PRODUCTS


def floats_of(node: ir.Node) -> dict[int, ir.Value]:
    """The inputs that are float32, by their places."""
    scales = SCALES if identifier(node) == NBITS else None
    floats: dict[int, ir.Value] = {}
    for place, value in enumerate(node.inputs):
        dtype = dtype_of(value)
        is_scale = place == scales and dtype is None and dtype_of(node.inputs[0]) in (ir.DataType.FLOAT, None)
        if value is not None and (dtype == ir.DataType.FLOAT or is_scale):
            floats[place] = value
    return floats


def is_half(value: ir.Value) -> bool:
    """Whether it is computed in float16."""
    return value.dtype == ir.DataType.FLOAT16 and not tensors.is_constant_expression(value)


def _source(value: ir.Value, *, stored: bool = False) -> ir.Value | None:
    """The computed float16 that ``value`` is the float32 of; with ``stored`` one that lies in the file too."""
    cast = value.producer()
    if cast is None or cast.op_type != "Cast" or value.dtype != ir.DataType.FLOAT:
        return None
    source = cast.inputs[0]
    if source is None or source.dtype != ir.DataType.FLOAT16:
        return None
    if stored or source.producer() is not None:
        return source
    return None


def _constants(value: ir.Value) -> Iterator[ir.Value]:
    """The float32 that a constant is made of, itself or by nodes."""
    if not is_constant(value) and not tensors.is_constant_expression(value):
        return
    for part in reached([value], lambda value: [] if is_constant(value) else sources(value)):
        if is_constant(part) and part.dtype == ir.DataType.FLOAT:
            yield part


def _fits(mask: ir.Value) -> bool:
    """Whether all that a mask can hold is a float16 as it is; -inf is one."""
    possible = possible_values(mask)
    return possible is not None and all(number == -math.inf or abs(number) <= halves.LARGEST for number in possible)


def _holds(value: ir.Value) -> bool:
    _, error = halves.halved(tensors.array(value))
    tensors.release(value)
    return halves.holds(error)


def _cast(edit: Edit, value: ir.Value, hides: bool) -> ir.Value:
    shape = value.shape
    if hides:
        value = edit.op("Max", value, edit.scalar("hidden", HIDDEN, ir.DataType.FLOAT))
        value.type = ir.TensorType(ir.DataType.FLOAT)
    half = edit.op("Cast", value, to=ir.DataType.FLOAT16, name="half")
    half.type, half.shape = ir.TensorType(ir.DataType.FLOAT16), shape
    return half
