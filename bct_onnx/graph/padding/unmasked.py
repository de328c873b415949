"""What a mask for attention is where every token is real: nothing at all, and then attention needs none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from bct_onnx.graph import tensors
from bct_onnx.graph.neighbours import provided

_MASK = 3
"""Which input of ``Attention`` hides keys."""

_SPREAD = ("Cast", "Unsqueeze", "Squeeze", "Expand", "Reshape", "Identity", "Slice", "Transpose")
"""Operators whose result has no other numbers than their first input."""

_NUMBERS: dict[str, Callable[..., object]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Not": np.logical_not,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Equal": np.equal,
    "Greater": np.greater,
    "Less": np.less,
    "Max": np.maximum,
    "Min": np.minimum,
}


def without_mask(node: ir.Node, mask: ir.Value, *, hides: bool) -> ir.Node:
    """A node as it can run where every token is real: an ``Attention`` without its mask if that hides nothing then.

    Args:
        node: A copy of a node, which is in no graph yet.
        mask: The mask of the model.
        hides: Whether that is true, or not 0, where a token is padding.
    """
    if node.op_type != "Attention" or node.domain or len(node.inputs) <= _MASK:
        return node
    given = node.inputs[_MASK]
    number = _number(given, mask, 0.0 if hides else 1.0)
    if given is not None and number is not None and number == (given.dtype == ir.DataType.BOOL):
        node.replace_input_with(_MASK, None)
    return node


def _number(value: ir.Value | None, mask: ir.Value, real: float) -> float | None:
    """The number that all elements of a value are where all of the mask are ``real``; None where it is not known."""
    if value is None:
        return None
    if value is mask:
        return real
    constant = tensors.small_constant(value)
    if constant is not None:
        if constant.size and (constant == constant.flat[0]).all():
            return float(constant.flat[0])
        return None
    node = value.producer()
    if node is None or node.domain or node.graph is None:
        return None
    if node.op_type in _SPREAD:
        number = _number(node.inputs[0], mask, real)
        if node.op_type == "Cast" and number is not None:
            return _cast(number, node)
        return number
    if node.op_type not in (*_NUMBERS, "Where"):
        return None
    numbers = [_number(read, mask, real) for read in node.inputs]
    known = provided(numbers)
    if node.op_type == "Where" and numbers[0] is not None:
        return numbers[1] if numbers[0] else numbers[2]
    if len(known) < len(numbers) or not np.isfinite(known).all():
        return None
    return float(np.asarray(_NUMBERS[node.op_type](*known)))


def _cast(number: float, node: ir.Node) -> float:
    kind = ir.DataType(node.attributes["to"].as_int())
    if kind == ir.DataType.BOOL:
        return float(bool(number))
    if kind.is_integer() and np.isfinite(number):
        return float(int(number))
    return number
