"""Compute in float16 from one matrix product to the next."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from bct_onnx.base import Declined, NodePass, NodeRewriter, Outcome, Site, Stage, identifier
from bct_onnx.graph import tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.runtime.statistics import measured

END = 65504.0
"""The largest float16."""

HIDDEN = -30000.0
"""What hides a score: its probability is 0 in any float, and it stays a number with a score added."""

NOISE = 1e-6
"""Most squared error over squared values of a constant."""

PRODUCTS = ("MatMul", "Gemm", "com.microsoft::MatMulNBits", "Attention")
"""What float16 is for."""

BETWEEN = (
    *("Add", "Sub", "Mul", "Div", "Neg", "Sum", "Where", "Gelu", "Relu", "Tanh", "Sigmoid", "Erf", "RotaryEmbedding"),
    *("LayerNormalization", "RMSNormalization"),
    *("Concat", "Expand", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
)
"""What computes in float16 on its way from a product to another; normalizations sum in float32 by their definition."""

SCALES, MASK = 2, 3
"""Inputs: the scales of MatMulNBits, the mask of Attention."""


@dataclasses.dataclass(frozen=True)
class HalfActivations(NodePass):
    """Compute in float16 from one matrix product to the next, where values fit; inputs and outputs stay float32.

    Why:
        GPUs multiply float16 on units that are several times as fast as those for float32, and read half the bytes.

    Before/after:
        ``MatMul(Gelu(MatMul(x, w)), v)`` becomes ``Cast(MatMul(Gelu(MatMul(Cast(x), w16)), v16))``. A mask of an
        attention is raised to -30000, which hides as well.

    Declines:
        Constants that float16 does not hold, or loses more than 60 dB of; nodes that calibrate saw values at beyond a
        share of the largest float16; products in branches and loops. Softmax and all other operators stay float32, and
        so does what leads from a product to one of these or out of the model.

    Options:
        margin: How many times larger than measured values may become.

    Promise:
        Bounded: 2^-11 of each value at each node: outputs keep some 55 dB.
    """

    name: ClassVar[str] = "half-activations"
    stage: ClassVar[Stage] = Stage.LOWER
    promise: ClassVar[str] = "bounded"
    operators: ClassVar[tuple[str, ...]] = PRODUCTS + BETWEEN

    margin: float = 4.0

    def rewriter(self, model: ir.Model, nodes: Sequence[ir.Node]) -> NodeRewriter:
        """What is made once: a cast of each value, and which nodes lead to a product."""
        return _Halving(model.graph, nodes, END / self.margin)


class _Halving(NodeRewriter):
    def __init__(self, graph: ir.Graph, nodes: Sequence[ir.Node], limit: float) -> None:
        self._graph, self._limit = graph, limit
        self._halves: dict[ir.Value, ir.Value] = {}
        self._leading: set[ir.Node] = set()
        known = set(nodes)
        for node in reversed(nodes):
            if node.graph is not graph:
                continue
            users = (use.node for output in node.outputs for use in output.uses())
            if any(_is_product(user) or user in self._leading for user in users if user in known):
                self._leading.add(node)

    def __call__(self, node: ir.Node) -> Outcome:
        """Compute one node in float16."""
        floats = [place for place, value in enumerate(node.inputs) if _is_float(node, place, value)]
        if not floats or not (_is_product(node) or (node in self._leading and self._follows(node, floats))):
            return None
        name = node.name or node.op_type
        if node.graph is not self._graph:
            return Declined(name, "inside a branch or a loop") if _is_product(node) else None
        if reason := self._refusal(node, floats):
            return Declined(name, reason)
        edit = Edit(node)
        inputs = [
            self._half(edit, node, place, value) if place in floats and value is not None else value
            for place, value in enumerate(node.inputs)
        ]
        attributes: dict[str, Any] = dict(node.attributes)
        old = list(node.outputs)
        first = edit.op(node.op_type, *inputs, domain=node.domain, outputs=len(old), name="half", **attributes)
        made = first.producer()
        assert made is not None
        backs = []
        for output, half in zip(old, made.outputs, strict=True):
            half.type, half.shape = ir.TensorType(ir.DataType.FLOAT16), output.shape
            back = edit.op("Cast", half, to=ir.DataType.FLOAT, name="float")
            back.type = ir.TensorType(ir.DataType.FLOAT)
            backs.append(back)
        for output, back in zip(old, backs, strict=True):
            edit.replace(output, back)
        return Site(made.name or "", (node.op_type,))

    def _follows(self, node: ir.Node, floats: Sequence[int]) -> bool:
        return any(_source(node.inputs[place]) is not None for place in floats)

    def _refusal(self, node: ir.Node, floats: Sequence[int]) -> str:
        for place in floats:
            value = node.inputs[place]
            if value is not None and value.is_initializer() and not value.is_graph_input() and not _holds(value):
                return f"float16 does not hold the values of '{value.name}'"
        around = [*(node.inputs[place] for place in floats), *node.outputs]
        for value in around:
            statistics = measured(value)
            if statistics is not None and (largest := statistics.max_abs.max(initial=0)) > self._limit:
                return f"values up to {largest:.0f} were measured, and float16 ends at {END:.0f}"
        return ""

    def _half(self, edit: Edit, node: ir.Node, place: int, value: ir.Value) -> ir.Value:
        if (half := _source(value, constants=True)) is not None:
            return half
        hides = node.op_type == "Attention" and place == MASK
        if value not in self._halves:
            self._halves[value] = self._stored(value) if _is_constant(value) else _cast(edit, value, hides)
        return self._halves[value]

    def _stored(self, value: ir.Value) -> ir.Value:
        data = tensors.array(value).astype(np.float16)
        return tensors.constant(self._graph, f"{value.name}.half", data)

    def finish(self) -> list[Outcome]:
        """Drop the float32 of what is stored as float16."""
        for value in self._halves:
            if _is_constant(value) and not value.uses() and not value.is_graph_output():
                del self._graph.initializers[value.name or ""]
        return []


def _is_product(node: ir.Node) -> bool:
    return identifier(node) in PRODUCTS


def _is_float(node: ir.Node, place: int, value: ir.Value | None) -> bool:
    if value is None:
        return False
    return value.dtype == ir.DataType.FLOAT or (
        node.op_type == "MatMulNBits" and place == SCALES and value.dtype is None
    )


def _source(value: ir.Value | None, *, constants: bool = False) -> ir.Value | None:
    """The float16 that ``value`` is the float32 of."""
    cast = None if value is None else value.producer()
    if cast is None or cast.op_type != "Cast":
        return None
    source = cast.inputs[0]
    if source is None or source.dtype != ir.DataType.FLOAT16 or (not constants and source.producer() is None):
        return None
    return source


def _is_constant(value: ir.Value) -> bool:
    return value.is_initializer() and not value.is_graph_input()


def _holds(value: ir.Value) -> bool:
    exact = tensors.array(value).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        error = exact - exact.astype(np.float16)
        return bool(np.sum(error**2) <= NOISE * np.sum(exact**2))


def _cast(edit: Edit, value: ir.Value, hides: bool) -> ir.Value:
    shape = value.shape
    if hides:
        value = edit.op("Max", value, edit.scalar("hidden", HIDDEN, ir.DataType.FLOAT))
    half = edit.op("Cast", value, to=ir.DataType.FLOAT16, name="half")
    half.type, half.shape = ir.TensorType(ir.DataType.FLOAT16), shape
    return half
