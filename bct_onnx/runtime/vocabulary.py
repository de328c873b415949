"""How many tokens a model knows, from the tables that its inputs pick rows of."""

from __future__ import annotations

import onnx_ir as ir

from bct_onnx.graph.functions import inlined

_MOVES = {"Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Slice", "Transpose", "Expand", "Concat"}
_LOOKUPS = {"Gather", "GatherBlockQuantized"}
_DECODES = {"Cast", "CastLike", "DequantizeLinear", "Identity", "Mul", "Sub"}


def vocabulary(model: ir.Model) -> dict[str, int]:
    """For each input that picks rows of a table, the number of rows of the smallest such table.

    Follows an input through operators that move values without changing them to the indices of `Gather` and
    `GatherBlockQuantized`; model-local functions are looked into.
    """
    if model.functions:
        model = inlined(model)
    found = {value.name or "": _smallest_table(value) for value in model.graph.inputs}
    return {name: rows for name, rows in found.items() if rows is not None}


def _smallest_table(start: ir.Value) -> int | None:
    rows: list[int] = []
    queue, seen = [start], {start}
    while queue:
        for node, index in queue.pop().uses():
            if node.op_type in _LOOKUPS and index == 1 and node.attributes.get_int("axis", 0) == 0:
                table = _rows(node.inputs[0])
                if table is not None:
                    rows.append(table)
            elif node.op_type in _MOVES and (index == 0 or node.op_type == "Concat"):
                queue += [output for output in node.outputs if output not in seen]
                seen.update(node.outputs)
    return min(rows, default=None)


def _rows(table: ir.Value | None) -> int | None:
    """First dimension of a table, through the operators that decode a quantized one."""
    while table is not None and table.const_value is None:
        shape = table.shape
        if shape is not None and len(shape) > 0 and isinstance(shape[0], int):
            return shape[0]
        node = table.producer()
        table = node.inputs[0] if node is not None and node.op_type in _DECODES else None
    if table is None or table.const_value is None:
        return None
    sizes = table.const_value.shape.numpy()
    return sizes[0] if sizes else None
