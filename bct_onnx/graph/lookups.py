"""Rows of a table by ``GatherND``, as exporters write a tensor that is indexed by another one, become a ``Gather``."""

from __future__ import annotations

import onnx_ir as ir

from bct_onnx.graph.edit import Edit
from bct_onnx.graph.known import size_of


def by_gather(model: ir.Model) -> int:
    """Let every ``GatherND`` with one index for each row of a constant be a ``Gather``; how many there were.

    ``GatherND(W[n, ...], i[..., 1])`` is ``Gather(W, Squeeze(i, -1))``: negative indices count from the end in both.
    """
    changed = 0
    for node in list(model.graph.all_nodes()):
        if node.op_type != "GatherND" or node.domain or node.attributes.get_int("batch_dims", 0) != 0:
            continue
        table, indices = node.inputs
        if table is None or table.const_value is None or size_of(indices, -1) != 1:
            continue
        edit = Edit(node)
        rows = edit.op("Squeeze", indices, edit.shape("last", [-1]))
        edit.replace(node.outputs[0], edit.op("Gather", table, rows, axis=0))
        changed += 1
    return changed
