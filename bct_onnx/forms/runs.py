"""How a parameter in codes with a scale per run is written into a graph: ``Reshape(Mul(Cast(codes), scale))``.

A runtime folds it when it creates the session, as it does not with `DequantizeLinear`, which it takes for one end of an
integer operator; so what uses the parameter finds a constant and packs it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bct_onnx.graph.edit import Edit
from bct_onnx.quant.runs import Runs


def write(edit: Edit, name: str, *, runs: Runs, shape: Sequence[int], dtype: ir.DataType) -> ir.Value:
    """The parameter in its shape and float type, decoded from initializers called ``name`` and ``name.scale``."""
    numbers = edit.op("Cast", edit.constant(name, runs.codes), to=ir.DataType.FLOAT, name="numbers")
    scale = edit.constant(f"{name}.scale", runs.scale)
    if runs.scale.dtype != np.float32:
        scale = edit.op("Cast", scale, to=ir.DataType.FLOAT, name="scales")
    decoded = edit.op("Mul", numbers, scale, name="scaled")
    if dtype != ir.DataType.FLOAT:
        decoded = edit.op("Cast", decoded, to=dtype, name="narrow")
    return edit.op("Reshape", decoded, edit.constant(f"{name}.shape", np.array(shape, np.int64)), name="decoded")
