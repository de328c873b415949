"""How large a table is from which a model picks, through the operators that decode a stored one."""

from __future__ import annotations

import onnx_ir as ir

DECODES = frozenset(("Cast", "CastLike", "DequantizeLinear", "Identity", "Mul", "Sub", "Transpose"))
"""Operators that make a table from a stored one; the first axis stays but for `Transpose`, whose result has a shape."""


def size(table: ir.Value | None, axis: int) -> int | None:
    """A dimension of a table, through the operators that decode a stored one."""
    while table is not None and table.const_value is None:
        shape = table.shape
        if shape is not None and -len(shape) <= axis < len(shape) and isinstance(dim := shape[axis], int):
            return dim
        node = table.producer()
        if node is None or node.op_type not in DECODES:
            constant = ir.convenience.get_const_tensor(table)
            return None if constant is None else _dimension(constant, axis)
        if node.op_type == "Transpose":
            turned, stored = node.attributes.get_ints("perm", ()), node.inputs[0]
            rank = 0 if stored is None or stored.shape is None else len(stored.shape)
            perm = turned or range(rank - 1, -1, -1)
            if not -len(perm) <= axis < len(perm):
                return None
            axis = perm[axis]
        table = node.inputs[0]
    if table is None or table.const_value is None:
        return None
    return _dimension(table.const_value, axis)


def _dimension(tensor: ir.TensorProtocol, axis: int) -> int | None:
    sizes = tensor.shape.numpy()
    return int(sizes[axis]) if -len(sizes) <= axis < len(sizes) else None
