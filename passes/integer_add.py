"""Replace residual additions of codes by integer arithmetic."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from bct_onnx.base import Declined, NodePass, Outcome, Site, Stage
from bct_onnx.forms import codes, residual
from bct_onnx.graph import tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.neighbours import is_read_by, outputs_of, provided

FINE = 1024
"""Steps of the sum per step of a side, from which on it does not matter that they are rounded to a whole number."""

COARSEST = 1 / 64
"""Where the step of a side is less than this part of the sum's, one of the sum's leaves others that read the codes of
that side less than two bits of eight."""


@dataclasses.dataclass(frozen=True)
class IntegerAdd(NodePass):
    """Replace every residual addition of codes by an addition of integers, in 32 bits.

    Why:
        The residual stream goes through the whole model. As sums of ``integer * code`` in one fine common step it is
        exact: nothing is rounded again from layer to layer, and normalizations read it as it is. The step is a power
        of two. A side whose own step is no large multiple of it, because the stream holds values thousands of times
        larger, is quantized to the next whole multiple.

    Before/after:
        ``Add(DQ(a) * f, DQ(b) * g)`` becomes ``DQ(IntegerAdd(a, scales, b, scales))``, one box, int32 inside. Additions
        that follow each other (pre-norm models) keep one step.

    Declines:
        An addition either side of which is not quantized with one constant scale (see quantize-intermediates), or of
        which no range is known, or one side of which has too fine a step for the sum that is fixed or that others need.

    Options:
        None.

    Promise:
        Bounded: each side is scaled by an integer instead of a real number, relative error at most 1/2000 of its range.
    """

    name: ClassVar[str] = "integer-add"
    stage: ClassVar[Stage] = Stage.INTEGER
    promise: ClassVar[str] = "bounded"
    operators: ClassVar[tuple[str, ...]] = ("Add",)
    inner: ClassVar[bool] = False  # calibrate measures values of the main graph

    def rewriter(self, model: ir.Model, nodes: Sequence[ir.Node]) -> Callable[[ir.Node], Outcome]:
        """Find the steps of all sums first: those of one stream have one."""
        steps = residual.common_steps(list(filter(residual.is_residual, nodes)))
        return lambda node: _replace(model, node, steps[node]) if node in steps else None


def _replace(model: ir.Model, node: ir.Node, step: float) -> Site | Declined:
    place = node.name or node.outputs[0].name or "Add"
    known = provided(map(codes.read, node.inputs))
    if len(known) < len(node.inputs):
        return Declined(place, "one side is not quantized with one constant scale")
    if not step:
        return Declined(place, "no statistics; run calibrate first")
    if not all(_align(side, step) for side in known):
        return Declined(place, "one side has finer steps than the sum can have")
    edit = Edit(node)
    sides: list[residual.Side] = []
    decoding: list[ir.Node] = []
    for side in known:
        zero_point = side.zero_point or edit.scalar("zero_point", 0, side.codes.dtype or ir.DataType.INT32)
        sides.append(residual.Side(side.codes, _scale(edit, side), zero_point))
        decoding += side.nodes
    edit.replace(node.outputs[0], residual.write(model, edit, sides, step, node.outputs[0]), also=decoding)
    return Site(place, ("Add",), f"int32 in steps of {step:.3g}")


def _align(side: codes.Codes, step: float) -> bool:
    """Make the step of ``side`` a multiple of ``step`` where it is not so many that rounding their number is harmless;
    False where its codes are made by something else than a quantization, whose scale can be chosen."""
    multiple = side.step / step
    if multiple >= FINE or multiple == 1:
        return True
    producer = side.codes.producer()
    fixed = is_read_by(side.codes, "Lookup")  # a table for the scale as it is
    spoilt = multiple < COARSEST and any(len(value.uses()) > 1 for value in (side.codes, *outputs_of(side.nodes)))
    if producer is None or producer.op_type != "QuantizeLinear" or fixed or spoilt:
        return False
    side.scale.const_value = ir.tensor(np.array(max(1, math.ceil(multiple)) * step, np.float32), name=side.scale.name)
    return True


def _scale(edit: Edit, side: codes.Codes) -> ir.Value:
    """The scale of one side, one per channel where there are factors."""
    if side.factors is None:
        return side.scale
    per_channel = tensors.array(side.factors).astype(np.float32) * np.float32(side.step)
    return edit.constant(f"{side.factors.name}.scale", per_channel)
