"""How a parameter in codes with a scale per row is written into a graph: ``Mul(Cast(codes), scale)``.

A runtime folds it when it creates the session, as it does not with `DequantizeLinear`, which it takes for one end of an
integer operator; so what uses the parameter finds a constant and packs it.
"""

from __future__ import annotations

import onnx_ir as ir

from bct_onnx.graph.edit import Edit
from bct_onnx.graph.neighbours import op_types
from bct_onnx.quant.rows import Rows


def write(edit: Edit, name: str, rows: Rows, dtype: ir.DataType) -> ir.Value:
    """The parameter in a float type, decoded from initializers called ``name`` and ``name.scale``."""
    numbers = edit.op("Cast", edit.constant(name, rows.codes), to=ir.DataType.FLOAT, name="numbers")
    decoded = edit.op("Mul", numbers, edit.constant(f"{name}.scale", rows.scale), name="decoded")
    if dtype != ir.DataType.FLOAT:
        return edit.op("Cast", decoded, to=dtype, name="narrow")
    return decoded


def axes_of_a_row(value: ir.Value, rank: int) -> tuple[int, ...]:
    """Axes along which values share a scale: those of an output channel, or the last one."""
    operators = set(op_types(value.consumers()))
    if operators == {"ConvTranspose"}:  # its output channels are the second axis
        return (0, *range(2, rank))
    return tuple(range(1, rank)) if operators == {"Conv"} else (rank - 1,)
