"""Which values become logarithms: energies of sound, where an error small beside the loudest band drowns the others."""

from __future__ import annotations

import onnx_ir as ir

from bct_onnx.graph import tensors

BETWEEN = frozenset(("Abs", "Cast", "Clip", "Identity", "Max", "Reshape", "Squeeze", "Transpose", "Unsqueeze"))
"""Operators that a value goes through before its logarithm is taken: it is kept above zero and laid out anew."""

WITH_CONSTANTS = frozenset(("Add", "Div", "Mul"))
"""The same where their other operand is a constant: a small number added, a factor."""


def becomes_logarithm(value: ir.Value) -> bool:
    """Whether a logarithm is taken of ``value``, through operators that keep small elements apart from large ones."""
    queue, seen = [value], {value}
    while queue:
        for node, index in queue.pop().uses():
            if node.domain or not node.outputs:
                continue
            if node.op_type == "Log":
                return True
            passes = node.op_type in BETWEEN
            if node.op_type in WITH_CONSTANTS:
                other = node.inputs[1 - index]
                passes = other is not None and (other.is_initializer() or tensors.is_constant_expression(other))
            if passes and node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                queue.append(node.outputs[0])
    return False
