"""Which values become logarithms: energies of sound, where an error small beside the loudest band drowns the others."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from bct_onnx.graph import tensors
from bct_onnx.graph.neighbours import is_read_by, reached

REASON = "a logarithm is taken of the product, in which small ones count as much"
"""Why a product that becomes one is computed in floats."""

BETWEEN = frozenset(("Abs", "Cast", "Clip", "Identity", "Max", "Reshape", "Squeeze", "Transpose", "Unsqueeze"))
"""Operators that a value goes through before its logarithm is taken: it is kept above zero and laid out anew."""

WITH_CONSTANTS = frozenset(("Add", "Div", "Mul"))
"""The same where their other operand is a constant: a small number added, a factor."""

ENERGIES = frozenset(("Concat", "Gather", "MatMul", "Pow", "ReduceL2", "ReduceSum", "Slice", "Split", "Sqrt"))
"""Operators that stand between filters and the logarithm of the energies that they find, besides the above: squares,
their sums, bands of these."""


def becomes_logarithm(value: ir.Value) -> bool:
    """Whether a logarithm is taken of ``value``, through operators that keep small elements apart from large ones."""
    return any(is_read_by(apart, "Log") for apart in reached([value], _kept_apart))


def _kept_apart(value: ir.Value) -> Iterator[ir.Value]:
    """What operators make of a value whose small elements stay apart from large ones."""
    for node, index in value.uses():
        if node.domain or not node.outputs:
            continue
        passes = node.op_type in BETWEEN
        if node.op_type in WITH_CONSTANTS:
            other = node.inputs[1 - index]
            passes = other is not None and (other.is_initializer() or tensors.is_constant_expression(other))
        if passes:
            yield node.outputs[0]


def is_before_logarithm(node: ir.Node) -> bool:
    """Whether a logarithm is taken of energies in what ``node`` gives, as a spectrogram is made of filtered sound."""
    return any(reader.op_type == "Log" for reader in reached([node], _sums_of_energies))


def _sums_of_energies(node: ir.Node) -> Iterator[ir.Node]:
    """What reads energies, or makes others of them."""
    for reader in node.successors():
        if not reader.domain and reader.op_type in BETWEEN | WITH_CONSTANTS | ENERGIES | {"Log"}:
            yield reader
