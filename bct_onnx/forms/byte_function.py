"""A function of one value between codes: bytes in, bytes out."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.base import Declined, Site
from bct_onnx.forms import codes
from bct_onnx.graph import functions, tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.known import size_of
from bct_onnx.graph.neighbours import provided
from bct_onnx.runtime.statistics import measured

TABLE = "bct_onnx.table_of"
"""Key in `onnx_ir.Node.meta` of a ``Lookup`` for want of a form that holds: its function, scales and zero points."""


def write(model: ir.Model, node: ir.Node, output: ir.Value, name: str, exact: str) -> Site | Declined:
    """Replace what leads from the codes of ``node``'s input to those of ``output`` by the function ``name``.

    Where that does not hold with the scales of this place, a table does.

    Args:
        model: The model, which gets the function.
        node: Where the input enters.
        output: What is quantized behind it.
        name: A function of (x, scale, zero point, scale and zero point of the result), or ``Lookup``.
        exact: Key in `bct_onnx.integer.lookup.FUNCTIONS` of what a table holds; empty where there is none.
    """
    x, quantize = codes.read(node.inputs[0]), codes.quantized_to_bytes(output)
    place = node.name or output.name or node.op_type
    if x is None or not x.is_bytes or x.factors is not None or x.zero_point is None:
        return Declined(place, "its input is not quantized with one constant scale")
    if quantize is None:
        return Declined(place, "its result is not quantized with one constant scale")
    scales = (x.scale, x.zero_point, *quantize.inputs[1:3])
    arrays = list(map(tensors.array, provided(scales)))
    reason = _outside(node, name, exact, arrays)
    if reason and not exact:
        return Declined(place, reason)
    name = "Lookup" if reason else name
    edit = Edit(quantize, node.name or "")
    parameters = scales
    if name == "Lookup":
        parameters = (_table(edit, f"{place}.table", exact, arrays),)
    result = edit.op(name, x.codes, *parameters, domain=functions.use(model, name), name="codes")
    if reason:  # not where tables were asked for
        edit.made[-1].meta[TABLE] = (exact, scales)
    result.type, result.shape = quantize.outputs[0].type, quantize.outputs[0].shape
    edit.replace(quantize.outputs[0], result, also=[node, *x.nodes])
    return Site(place, (node.op_type,), f"{name}: {reason}" if reason else name)


def _table(edit: Edit, name: str, exact: str, scales: list[npt.NDArray[Any]]) -> ir.Value:
    from bct_onnx.integer import lookup  # slow to import, seldom needed

    return edit.constant(name, lookup.table_of(exact, *scales))


def _outside(node: ir.Node, name: str, exact: str, scales: list[npt.NDArray[Any]]) -> str:
    """Why the function does not hold with these scales; a table does with all."""
    from bct_onnx.integer import KERNELS, lookup, places

    if name == "Lookup":
        return ""
    kernel = KERNELS[name]
    if exact:
        return places.refusal(kernel, places.place(scales, seen(node.inputs[0])), lookup.FUNCTIONS[exact])
    row = size_of(node.inputs[0], -1)
    if row is not None and row > kernel.valid.row:
        return f"rows of {row} are too long for {name}"
    return kernel.valid.refusal(name, float(scales[0]), float(scales[2]))


def seen(value: ir.Value | None) -> tuple[npt.NDArray[Any], npt.NDArray[Any]] | None:
    """The calibrated values and how often each occurs; None where they are not known."""
    statistics = measured(value)
    if statistics is None or statistics.histogram is None:
        return None
    values, weights = statistics.histogram.seen()
    if weights.sum() > 0:
        return (values, weights)
    return None
