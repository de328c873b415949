"""Sigmoids and tanhs that are multiplied by what they are functions of: QuickGELU, Mish, Swish with a slope."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import onnx_ir as ir

from bct_onnx.graph import operators
from bct_onnx.graph.neighbours import inputs_of, made_by, provided

GATES = ("Sigmoid", "Tanh")

POINTWISE = operators.named("arithmetic", "activation", "cast") | {"Identity"}
"""Operators that look at one element of each input."""

REACH = 8
"""Operators between a product and what both of its sides come from, at most."""


def gates_itself(node: ir.Node) -> bool:
    """Whether the result of ``node``, perhaps shifted or scaled, multiplies what its own input is made of.

    SiLU as ``x * Sigmoid(x)``, all that the sigmoid is used for, is none: it is replaced as a whole.
    """
    sources = _sources(node.inputs[:1])
    for product, other in _products(node.outputs[0]):
        is_silu = node.op_type == "Sigmoid" and other is node.inputs[0] and len(node.outputs[0].uses()) == 1
        if not (is_silu and product is next(iter(node.outputs[0].uses())).node) and sources & _sources([other]):
            return True
    return False


def _products(value: ir.Value, reach: int = 3) -> Iterable[tuple[ir.Node, ir.Value | None]]:
    """Multiplications that ``value`` reaches through additions of constants and the like, and their other side."""
    for use in value.uses():
        node = use.node
        if node.domain or node.op_type not in ("Add", "Sub", "Mul", "Div", "Cast", "Identity"):
            continue
        other = node.inputs[1 - use.idx] if len(node.inputs) == 2 else None
        if node.op_type == "Mul" and other is not None and not _is_constant(other):
            yield node, other
        elif reach and (other is None or _is_constant(other)):
            yield from _products(node.outputs[0], reach - 1)


def _sources(values: Iterable[ir.Value | None]) -> set[ir.Value]:
    """Computed values that ``values`` are pointwise functions of, themselves included."""
    sources: set[ir.Value] = set()
    front = list(itertools.filterfalse(_is_constant, provided(values)))
    for _ in range(REACH):
        sources.update(front)
        makers = [node for value in front if (node := made_by(value, *POINTWISE)) is not None]
        front = [value for value in inputs_of(makers) if value not in sources and not _is_constant(value)]
    return sources


def _is_constant(value: ir.Value) -> bool:
    return value.is_initializer() or made_by(value, "Constant") is not None


def silu_of(sigmoid: ir.Node) -> ir.Node | None:
    """The ``x * Sigmoid(x)`` that is all that ``sigmoid`` is used for."""
    uses = list(sigmoid.outputs[0].uses())
    if sigmoid.op_type != "Sigmoid" or sigmoid.domain or len(uses) != 1 or uses[0].node.op_type != "Mul":
        return None
    product, index = uses[0]
    if product.inputs[1 - index] is sigmoid.inputs[0]:
        return product
    return None
