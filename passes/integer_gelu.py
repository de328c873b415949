"""Replace GELU on codes by integer arithmetic."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site
from bct_onnx.graph import codes, functions, tensors
from bct_onnx.graph.edit import Edit


@dataclasses.dataclass(frozen=True)
class IntegerGelu(Pass):
    """Replace every ``Gelu`` between codes by a function of integers.

    Why:
        Between two integer matrix products nothing need be float: bytes in, bytes out, on any integer hardware.

    Before/after:
        ``Q(Gelu(DQ(codes)))`` becomes ``IntegerGelu(codes, scales and zero points)``, one box.

    Declines:
        A Gelu whose input or output is not quantized with one constant scale (see quantize-intermediates), or with
        one that the variant is not valid for.

    Options:
        variant: ``polynomial``, I-BERT's second-order erf (within 0.018); ``sigmoid``, x sigmoid(1.702 x) (within
            0.021); ``table``, 256 entries, correctly rounded.

    Promise:
        Bounded: the variant's error and half a step of the output.
    """

    name: ClassVar[str] = "integer-gelu"
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

    Args:
        model: The model, which gets the function.
        node: Where the input enters.
        output: What is quantized behind it.
        name: A function of (x, scale, zero point, scale and zero point of the result), or ``Lookup``.
        exact: Key in `bct_onnx.integer.lookup.FUNCTIONS` of what a table holds.
    """
    x, quantize = codes.read(node.inputs[0]), codes.quantized_to_bytes(output)
    said = node.name or output.name or node.op_type
    if x is None or not x.is_bytes or x.factors is not None or x.zero_point is None:
        return Declined(said, "its input is not quantized with one constant scale")
    if quantize is None:
        return Declined(said, "its result is not quantized with one constant scale")
    if reason := _outside(name, x.step, quantize):
        return Declined(said, reason)
    from bct_onnx.integer import lookup  # slow to import, seldom needed

    edit = Edit(quantize, node.name or "")
    scales = (x.scale, x.zero_point, *quantize.inputs[1:3])
    domain = functions.use(model, name)
    if name == "Lookup":
        entries = lookup.table_of(exact, *(tensors.array(value) for value in scales if value is not None))
        result = edit.op("Lookup", x.codes, edit.constant(f"{said}.table", entries), domain=domain, name="codes")
    else:
        result = edit.op(name, x.codes, *scales, domain=domain, name="codes")
    result.type, result.shape = quantize.outputs[0].type, quantize.outputs[0].shape
    edit.replace(quantize.outputs[0], result, also=[node, *x.nodes])
    return Site(said, (node.op_type,), name)


def _outside(name: str, x_step: float, quantize: ir.Node) -> str:
    """Why these scales are none that a function is valid for; a table is for all."""
    from bct_onnx.integer import gelu, sigmoid

    assert quantize.inputs[1] is not None
    y_step = float(tensors.array(quantize.inputs[1]))
    if name in ("IntegerSigmoid", "IntegerTanh"):
        return f"steps of {y_step:.3g} are too fine for {name}" if y_step < sigmoid.LEAST_STEP else ""
    if name == "IntegerGelu" and x_step > gelu.GREATEST_SCALE:
        return f"steps of {x_step:.3g} are too coarse for {name}"
    if name != "Lookup" and y_step < gelu.LEAST_RATIO * x_step:
        return f"steps of {y_step:.3g} are too fine for {name} of steps of {x_step:.3g}"
    return ""
