"""The values of a graph that are worth measuring: those whose ranges and channels later passes need."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping

import onnx_ir as ir

from bct_onnx.forms.linear import Linear
from bct_onnx.graph import tensors
from bct_onnx.graph.known import sized
from bct_onnx.graph.neighbours import is_read_by, made_by, provided

PRODUCTS = 1 << 30
"""Bytes that all XᵀX may take together."""

WIDEST = 4096
"""Widest input whose XᵀX is gathered: its factorization grows with the cube."""

POINTWISE = ("Gelu", "Sigmoid", "Swish", "Tanh", "LayerNormalization", "RMSNormalization")


def affordable(values: Iterable[ir.Value]) -> frozenset[str]:
    """Names of the values whose XᵀX is gathered, in graph order until the budget is spent."""
    names: list[str] = []
    spent = 0
    for value in values:
        weight = provided(map(Linear.of, value.consumers()))[0].tensor
        width = weight.shape[0] if value.shape is None else value.shape[-1]
        if isinstance(width, int) and width <= WIDEST and spent + 4 * width**2 <= PRODUCTS:
            names.append(value.name or "")
            spent += 4 * width**2
    return frozenset(names)


def fetched_bytes(values: Iterable[ir.Value], length: int) -> int:
    """Bytes of values for one sequence, where their shapes are known."""
    count = 0
    for value in values:
        if value.shape is not None and has_channels(value):
            count += math.prod(sized(value.shape[1:], length))
    return 4 * count or 1


def looked_at(
    values: Iterable[ir.Value], products: Container[str], sizes: Mapping[str, int], rows: int
) -> dict[str, int]:
    """Bytes that values take while they are looked at, by name: so many rows of these sizes, and XᵀX of some."""
    nbytes = {name: rows * size for name, size in sizes.items()}
    for value in values:
        name, width = value.name or "", value.shape[-1] if value.shape else None
        if name in products and isinstance(width, int):
            nbytes[name] = nbytes.get(name, 0) + 2 * width**2
    return nbytes


def has_channels(value: ir.Value) -> bool:
    """Whether the last axis is one of channels; that of attention scores is one of positions."""
    if made_by(value, "Softmax") or is_read_by(value, "Softmax"):
        return False
    shape = value.shape
    return shape is not None and len(shape) > 0 and isinstance(shape[-1], int)


def weighted(graph: ir.Graph) -> list[ir.Value]:
    """Computed values that are multiplied by a constant weight, an embedding table among them."""
    inputs = []
    for node in graph:
        linear = Linear.of(node)
        if linear is None or (linear.refusal and not linear.tied):
            continue
        value = node.inputs[0]
        if value is not None and value.producer() is not None:
            inputs.append(value)
    return inputs


def others(graph: ir.Graph) -> Iterator[ir.Value]:
    """Computed floats whose ranges later passes may need, except those that only leave the model."""
    for node in graph:
        for value in _around(node):
            if value is not None and value.producer() is not None and value.uses() and value.dtype in tensors.FLOATS:
                yield value


def _around(node: ir.Node) -> Iterable[ir.Value | None]:
    """What is worth measuring at a node; of an attention that is spelled out only what is around its Softmax."""
    output = next(iter(node.outputs), None)
    if node.domain or output is None:
        return ()
    if node.op_type == "Softmax":
        return (node.inputs[0], output)
    if node.op_type == "Attention":
        return (*node.inputs[:3], output)
    if node.op_type in POINTWISE:
        return (node.inputs[0], output)
    if node.op_type in ("MatMul", "Gemm"):
        if Linear.of(node) is not None and has_channels(output):
            return (output,)
        return ()
    if node.op_type == "Gather":
        if node.inputs[0] is not None and node.inputs[0].is_initializer():
            return (output,)
        return ()
    gated = node.op_type == "Mul" and any(value and _is_sigmoid_of(value, node) for value in node.inputs)
    if (gated or node.op_type == "Add") and has_channels(output):
        return (*node.inputs, output)
    return ()


def gives_scores(node: ir.Node) -> bool:
    """Whether ``node`` is an ``Attention`` that can be asked for its scores."""
    return node.op_type == "Attention" and not node.domain and all(value.name == "" for value in node.outputs[3:])


def _is_sigmoid_of(value: ir.Value, node: ir.Node) -> bool:
    """Whether ``value`` is the sigmoid of another input of ``node``: SiLU spelled out."""
    producer = value.producer()
    return producer is not None and producer.op_type == "Sigmoid" and producer.inputs[0] in node.inputs
