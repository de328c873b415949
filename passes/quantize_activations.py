"""Quantize what goes into the quantized MatMuls to int8."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site
from bct_onnx.graph import functions, weights
from bct_onnx.graph.edit import Edit


@dataclasses.dataclass(frozen=True)
class QuantizeActivations(Pass):
    """Quantize the input of every MatMul with a quantized weight to int8, with a scale found at run time.

    Why:
        Integer kernels need both sides in integers. One scale per token (row) depends on that token alone: the same
        text gives the same result in every batch and with any padding. One scale per tensor is a little faster, and
        is not.

    Before/after:
        ``MatMul(x, W)`` becomes ``MatMul(DequantizeLinear(QuantizeLinear(x, s), s), W)`` with ``s = TokenScale(x)``;
        MatMuls of the same x share one quantization.

    Declines:
        MatMuls whose weight has a float scale per block, since no integer kernel with one scale per column fits them.

    One-sided activations:
        Gelu never falls below -0.17, SiLU below -0.28, Relu, Sigmoid and Softmax below 0. Where one of these feeds a
        MatMul the zero point moves down and nearly all 256 codes go to the positive side, at no cost.

    Options:
        per: token (batch-invariant) or tensor.

    Promise:
        Bounded: each value moves by at most half of its row's (tensor's) maximum / 127.
    """

    name: ClassVar[str] = "quantize-activations"
    promise: ClassVar[str] = "bounded"

    per: Literal["token", "tensor"] = "token"

    def apply(self, model: ir.Model) -> Applied:
        """Quantize the activations of every MatMul whose weight is stored in integers."""
        sites: list[Site] = []
        declined: list[Declined] = []
        for graph in (model.graph, *model.graph.subgraphs()):
            done: dict[int, ir.Value] = {}
            for node in list(graph):
                if node.domain or node.op_type != "MatMul" or node.inputs[0] is None:
                    continue
                stored = weights.read(node.inputs[1])
                if stored is None:
                    if weights.is_constant(node.inputs[1]):
                        declined.append(
                            Declined(node.name or "", "its weight is not stored as integers with a scale per column")
                        )
                    continue
                source = node.inputs[0]
                if id(source) not in done:
                    done[id(source)] = self._quantize(model, node, source, stored)
                    sites.append(Site(source.name or "", ("MatMul",), f"int8, one scale per {self.per}"))
                _feed(node, done[id(source)], stored)
        return Applied(model, sites, declined)

    def _quantize(self, model: ir.Model, node: ir.Node, source: ir.Value, stored: weights.Stored) -> ir.Value:
        edit = Edit(node, source.name or "activation")
        if stored.dtype != ir.DataType.FLOAT:
            source = edit.op("Cast", source, to=ir.DataType.FLOAT, name="float")
        if self.per == "tensor":
            edit.op("DynamicQuantizeLinear", source, outputs=3, name="codes")
            return edit.op("DequantizeLinear", *edit.made[-1].outputs, name="value")
        below = levels_below_zero(source)
        domain = functions.use(model, "TokenScale")
        scale = edit.op(
            "TokenScale",
            source,
            domain=domain,
            above=float(255 - below),
            below=float(min(below, 127) or 1),
            name="scale",
        )
        zero_point = None if below == SYMMETRIC else edit.scalar("zero_point", below - 128, ir.DataType.INT8)
        block: dict[str, Any] = {"axis": -1, "block_size": stored.k}
        points = (
            () if zero_point is None else (edit.op("Expand", zero_point, edit.op("Shape", scale), name="zero_points"),)
        )
        kind: dict[str, Any] = {} if points else {"output_dtype": ir.DataType.INT8}
        codes = edit.op("QuantizeLinear", source, scale, *points, name="codes", **kind, **block)
        return edit.op("DequantizeLinear", codes, scale, *points, name="value", **block)


SYMMETRIC = 128
"""Levels below zero where both signs occur alike: the signed codes have zero point 0."""

_SIDES = {"Gelu": 32, "Relu": 0, "Sigmoid": 0, "Softmax": 0}


def levels_below_zero(value: ir.Value) -> int:
    """How many of the 256 codes go below zero: few where the operator that made ``value`` is bounded there.

    With 32 levels below, Gelu keeps its full negative side wherever a row reaches 223/32 * 0.17 = 1.2; where a row
    stays below that, the negative side sets the scale.
    """
    producer = value.producer()
    return _SIDES.get(producer.op_type, SYMMETRIC) if producer is not None else SYMMETRIC


def _feed(node: ir.Node, value: ir.Value, stored: weights.Stored) -> None:
    """Give ``value`` (float32) to the MatMul; in a half-precision model the product is cast back."""
    if stored.dtype == ir.DataType.FLOAT:
        node.replace_input_with(0, value)
        return
    edit = Edit(node)
    product = edit.op("MatMul", value, stored.float32)
    edit.replace(node.outputs[0], edit.op("Cast", product, to=stored.dtype, name="typed"))
