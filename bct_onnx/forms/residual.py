"""Sums into the residual stream."""

from __future__ import annotations

import onnx_ir as ir


def is_residual(node: ir.Node) -> bool:
    """Whether ``node`` adds two computed values of the same shape that are not both looked up in tables."""
    if node.op_type != "Add" or node.domain:
        return False
    if all(_is_looked_up(value) for value in node.inputs):
        return False
    shapes = [value.shape if value is not None and value.producer() is not None else None for value in node.inputs]
    return shapes[0] is not None and shapes[0].rank() > 1 and shapes[0] == shapes[1]


def _is_looked_up(value: ir.Value | None) -> bool:
    """Whether ``value`` is rows of a table, or a sum of such."""
    producer = value.producer() if value is not None else None
    if producer is None:
        return False
    if producer.op_type in ("Add", "Cast") and not producer.domain:
        return all(_is_looked_up(each) for each in producer.inputs)
    if producer.op_type == "Where" and not producer.domain:  # a table in parts
        return all(_is_looked_up(each) for each in producer.inputs[1:])
    return producer.op_type.startswith("Gather")
