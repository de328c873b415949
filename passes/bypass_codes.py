"""Let float operators read floats, not codes made from them."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Declined, NodePass, Outcome, Site, Stage
from bct_onnx.course import Course
from bct_onnx.graph.edit import drop_dead
from bct_onnx.graph.neighbours import producer

PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
"""Operators that the runtime has integer kernels for: they stay between codes."""


@dataclasses.dataclass(frozen=True)
class BypassCodes(NodePass):
    """Give operators that read ``DQ(Q(x))`` the x itself.

    Why:
        What flows between float operators needs no codes: a residual sum reads the result of a normalization, attention
        that of a product. Going to codes and back costs two passes over the data, and half a step of accuracy.

    Before/after:
        ``Add(DQ(Q(x)), y)`` becomes ``Add(x, y)``. Whatever reads the codes themselves still does.

    Declines:
        Values that are outputs of the model. Codes in a run that makes none: they came with the model, and how they
        clip and round is part of what it means.

    Options:
        None.

    Promise:
        Bounded: values within their calibrated range move by at most half a step, towards those of the float model;
        what lies outside is no longer clipped.
    """

    name: ClassVar[str] = "bypass-codes"
    stage: ClassVar[Stage] = Stage.LOWER
    promise: ClassVar[str] = "bounded"
    operators: ClassVar[tuple[str, ...]] = ("DequantizeLinear",)

    def rewrite(self, node: ir.Node, model: ir.Model) -> Outcome:
        """Give the users of codes that are decoded again what they were made from."""
        decode, quantize = node, producer(node.inputs[0])
        if quantize is None or quantize.op_identifier() != ("", "QuantizeLinear", "") or not _undoes(decode, quantize):
            return None
        x, y = quantize.inputs[0], decode.outputs[0]
        uses = [use for use in y.uses() if use.node.op_type not in PRODUCTS or use.node.domain]
        if x is None or x.dtype not in (None, y.dtype):
            return None
        if y.is_graph_output():
            return Declined(y.name or "", "an output of the model")
        if not uses:
            return None
        if Course.of(model).finds_codes:
            return Declined(y.name or "", "its codes came with the model")
        for use in uses:
            use.node.replace_input_with(use.idx, x)
        drop_dead([decode])
        return Site(x.name or "", tuple(dict.fromkeys(use.node.op_type for use in uses)), "read as it is, not as codes")


def _undoes(decode: ir.Node, quantize: ir.Node) -> bool:
    """Whether both have the same constants and axes, so that one undoes the other."""
    for key in ("axis", "block_size"):
        if decode.attributes.get_int(key, 0) != quantize.attributes.get_int(key, 0):
            return False
    return list(decode.inputs[1:]) == list(quantize.inputs[1:])
