"""Functions of bytes as ONNX Runtime's CPU provider runs them: its QLinear kernels, a table, or floats between codes.

Each takes a function between codes with constant scales, and says where it was; None where the kernels do not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from bct_onnx.base import Site
from bct_onnx.forms.byte_function import TABLE, seen
from bct_onnx.graph import functions, tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.kernels import MICROSOFT
from bct_onnx.graph.neighbours import operand, producer, provided

SIGMOIDS = {
    "IntegerSigmoid": 1.0,
    "IntegerTanh": 2.0,
    "IntegerSilu": 1.0,
    "IntegerGelu": 1.702,
    "IntegerSigmoidGelu": 1.702,
}
"""Functions of codes that are a sigmoid of a multiple of x, or x times it."""

TABLES = {"IntegerGelu": "Gelu", "IntegerSigmoidGelu": "Gelu", "IntegerSilu": "Silu"}
"""Functions of codes that are a product, by what their exact form is called in `bct_onnx.integer.lookup.FUNCTIONS`."""

FINEST_GELU = 0.004
"""Least step of codes in which the difference of the two forms of GELU, at most 0.0005, is an eighth of a step."""

_ALONE = {"IntegerSigmoid": (1 / 256, 0), "IntegerTanh": (1 / 128, 128)}
"""Functions that are the runtime's sigmoid as it is, with the scale and zero point of its results."""

FUNCTIONS = tuple(f"{functions.DOMAIN}::{name}" for name in (*SIGMOIDS, "IntegerSoftmax", "Lookup"))
"""Operators that there is something for here."""


def sigmoid(node: ir.Node) -> Site | None:
    """A sigmoid of a multiple of x by the runtime's table; times x where the function has that form.

    Where a gate of bytes is too coarse for the results, the function is done in floats.
    """
    if not _has_constant_scales(node):
        return None
    if node.op_type in TABLES and (reason := _too_coarse(node)):
        return _float(node, TABLES[node.op_type], node.inputs[1:], reason)
    x, scale, zero, y_scale, y_zero = node.inputs
    assert scale is not None and y_scale is not None and y_zero is not None
    alone, step = _ALONE.get(node.op_type), 1 / 256
    if alone is None:
        step = float(np.float32(1 / 255))  # 1 has a code of its own
    elif alone != (float(tensors.array(y_scale)), int(tensors.array(y_zero))):
        return None
    edit = Edit(node)
    steepness = float(np.float32(SIGMOIDS[node.op_type] * tensors.array(scale)))
    gate_step, none = edit.scalar("gate_step", step, ir.DataType.FLOAT), edit.scalar("none", 0, ir.DataType.UINT8)
    steeper = edit.scalar("steeper", steepness, ir.DataType.FLOAT)
    result = edit.op("QLinearSigmoid", x, steeper, zero, gate_step, none, domain=MICROSOFT, name="gate")
    if alone is None:
        inputs = (x, scale, zero, result, gate_step, none, y_scale, y_zero)
        result = edit.op("QLinearMul", *inputs, domain=MICROSOFT, name="codes")
    edit.replace(node.outputs[0], result)
    return Site(node.name or "", (node.op_type,), "by the runtime's table of the sigmoid")


def table(model: ir.Model, node: ir.Node) -> Site | None:
    """The function as 256 results."""
    if not _has_constant_scales(node):
        return None
    from bct_onnx.integer.lookup import table_of  # slow to import, seldom needed

    x, *scales = node.inputs
    edit = Edit(node)
    domain = functions.use(model, "Lookup")
    entries = table_of(TABLES[node.op_type], *map(tensors.array, provided(scales)))
    constant = edit.constant(f"{node.name}.table", entries)
    edit.replace(node.outputs[0], edit.op("Lookup", x, constant, domain=domain, name="codes"))
    return Site(node.name or "", (node.op_type,), "by a table of 256 results")


def float_gelu(node: ir.Node) -> Site | None:
    """A GELU of codes in floats, by its form with tanh where the codes are too coarse to tell."""
    if not _has_constant_scales(node):
        return None
    step = node.inputs[3]
    assert step is not None
    form = "GeluTanh" if float(tensors.array(step)) >= FINEST_GELU else "Gelu"
    return _float(node, form, node.inputs[1:], "its gate of bytes loses more")


def _too_coarse(node: ir.Node) -> str:
    """Why x times a byte of the sigmoid does not hold with the scales of this place; empty where it does."""
    from bct_onnx.integer import lookup, places

    scales = list(map(tensors.array, provided(node.inputs[1:])))
    place = places.place(scales, seen(operand(producer(node.inputs[0]), 0)))
    return place.refusal("its gate", places.gate(SIGMOIDS[node.op_type]), lookup.FUNCTIONS[TABLES[node.op_type]])


def floats_for_lookup(node: ir.Node) -> Site | None:
    """What a table was made for: in floats it takes a fifth of the time."""
    if TABLE not in node.meta:
        return None
    exact, scales = node.meta[TABLE]
    return _float(node, exact, scales, "a table takes longer")


def _float(node: ir.Node, function: str, scales: Sequence[ir.Value | None], reason: str) -> Site:
    """The function between codes, as what it is in floats."""
    edit = Edit(node)
    x = edit.op("DequantizeLinear", node.inputs[0], *scales[:2], name="value")
    x.dtype, x.shape = ir.DataType.FLOAT, node.outputs[0].shape
    if function == "GeluTanh":
        y = edit.op("Gelu", x, approximate="tanh", name="float")
    elif function == "Gelu":
        y = edit.op("Gelu", x, approximate="none", name="float")
    elif function == "Silu":
        y = edit.op("Mul", x, edit.op("Sigmoid", x, name="gate"), name="float")
    else:
        y = edit.op(function, x, name="float")
    y.dtype, y.shape = ir.DataType.FLOAT, node.outputs[0].shape
    edit.replace(node.outputs[0], edit.op("QuantizeLinear", y, *scales[2:], name="codes"))
    return Site(node.name or "", (node.op_type,), f"the float operator between codes: {reason}")


def _has_constant_scales(node: ir.Node) -> bool:
    """Whether all but the codes is constant: one function for the whole tensor."""
    return all(value is not None and value.const_value is not None for value in node.inputs[1:])


def softmax(node: ir.Node) -> Site | None:
    """The runtime's softmax of bytes."""
    if len(node.inputs) != 5:
        return None
    edit = Edit(node)
    options: dict[str, Any] = {"axis": -1, "opset": 13}
    edit.replace(node.outputs[0], edit.op("QLinearSoftmax", *node.inputs, domain=MICROSOFT, name="codes", **options))
    return Site(node.name or "", (node.op_type,), "by the runtime's byte-sized softmax")
