"""Replace GELU on codes by integer arithmetic."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from bct_onnx.forms import codes
from bct_onnx.graph import functions, tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.runtime.statistics import KEY, ChannelStatistics

TABLE = "bct_onnx.table_of"
"""Key in `onnx_ir.Node.meta` of a ``Lookup`` for want of a form that holds: its function, scales and zero points."""


@dataclasses.dataclass(frozen=True)
class IntegerGelu(Pass):
    """Replace every ``Gelu`` between codes by a function of integers.

    Why:
        Between two integer matrix products nothing need be float: bytes in, bytes out, on any integer hardware.

    Before/after:
        ``Q(Gelu(DQ(codes)))`` becomes ``IntegerGelu(codes, scales and zero points)``, one box.

    Declines:
        A Gelu whose input or output is not quantized with one constant scale (see quantize-intermediates). Where the
        variant does not hold with the scales of a place, because results are small there, it gets a table.

    Options:
        variant: ``polynomial``, I-BERT's second-order erf (within 0.018); ``sigmoid``, x sigmoid(1.702 x) (within
            0.021); ``table``, 256 entries, correctly rounded.

    Promise:
        Bounded: the variant's error and half a step of the output.
    """

    name: ClassVar[str] = "integer-gelu"
    stage: ClassVar[Stage] = Stage.INTEGER
    promise: ClassVar[str] = "bounded"

    variant: Literal["polynomial", "sigmoid", "table"] = "polynomial"

    def apply(self, model: ir.Model) -> Applied:
        """Look at every ``Gelu``, subgraphs included."""
        found: list[Site | Declined] = []
        name = {"polynomial": "IntegerGelu", "sigmoid": "IntegerSigmoidGelu", "table": "Lookup"}[self.variant]
        for node in list(model.graph.all_nodes()):
            if node.op_type == "Gelu" and not node.domain:
                exact = "GeluTanh" if node.attributes.get_string("approximate", "none") == "tanh" else "Gelu"
                found.append(function_of_codes(model, node, node.outputs[0], name, exact))
        return Applied.of(model, found)


def function_of_codes(model: ir.Model, node: ir.Node, output: ir.Value, name: str, exact: str) -> Site | Declined:
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
    said = node.name or output.name or node.op_type
    if x is None or not x.is_bytes or x.factors is not None or x.zero_point is None:
        return Declined(said, "its input is not quantized with one constant scale")
    if quantize is None:
        return Declined(said, "its result is not quantized with one constant scale")
    scales = (x.scale, x.zero_point, *quantize.inputs[1:3])
    reason = _outside(node, name, exact, [tensors.array(value) for value in scales if value is not None])
    if reason and not exact:
        return Declined(said, reason)
    name = "Lookup" if reason else name
    edit = Edit(quantize, node.name or "")
    domain = functions.use(model, name)
    if name == "Lookup":
        from bct_onnx.integer import lookup  # slow to import, seldom needed

        entries = lookup.table_of(exact, *(tensors.array(value) for value in scales if value is not None))
        table = edit.constant(f"{said}.table", entries)
        result = edit.op("Lookup", x.codes, table, domain=domain, name="codes")
        if reason:  # not where tables were asked for
            edit.made[-1].meta[TABLE] = (exact, scales)
    else:
        result = edit.op(name, x.codes, *scales, domain=domain, name="codes")
    result.type, result.shape = quantize.outputs[0].type, quantize.outputs[0].shape
    edit.replace(quantize.outputs[0], result, also=[node, *x.nodes])
    return Site(said, (node.op_type,), f"{name}: {reason}" if reason else name)


def _outside(node: ir.Node, name: str, exact: str, scales: list[npt.NDArray[Any]]) -> str:
    """Why the function does not hold with these scales; a table does with all."""
    from bct_onnx.integer import KERNELS, lookup, places

    if name == "Lookup":
        return ""
    if not exact:
        kernel = KERNELS[name]
        shape = node.inputs[0].shape if node.inputs[0] is not None else None
        row = shape[-1] if shape is not None and shape.rank() else None
        if isinstance(row, int) and row > kernel.valid.row:
            return f"rows of {row} are too long for {name}"
        return kernel.valid.refusal(name, float(scales[0]), float(scales[2]))
    return places.refusal(KERNELS[name], places.place(scales, seen(node.inputs[0])), lookup.FUNCTIONS[exact])


def seen(value: ir.Value | None) -> tuple[npt.NDArray[Any], npt.NDArray[Any]] | None:
    """The calibrated values and how often each occurs; None where they are not known."""
    statistics = value.meta.get(KEY) if value is not None else None
    if not isinstance(statistics, ChannelStatistics) or statistics.histogram is None:
        return None
    values, weights = statistics.histogram.seen()
    return (values, weights) if weights.sum() > 0 else None
