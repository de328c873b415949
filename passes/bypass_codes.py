"""Let float operators read floats, not codes made from them."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from bct_onnx.graph.edit import drop_dead

PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
"""Operators that the runtime has integer kernels for: they stay between codes."""


@dataclasses.dataclass(frozen=True)
class BypassCodes(Pass):
    """Give operators that read ``DQ(Q(x))`` the x itself.

    Why:
        What flows between float operators needs no codes: a residual sum reads the result of a normalization, attention
        that of a product. Going to codes and back costs two passes over the data, and half a step of accuracy.

    Before/after:
        ``Add(DQ(Q(x)), y)`` becomes ``Add(x, y)``. Whatever reads the codes themselves still does.

    Declines:
        Values that are outputs of the model.

    Options:
        None.

    Promise:
        Bounded: values within their calibrated range move by at most half a step, towards those of the float model;
        what lies outside is no longer clipped.
    """

    name: ClassVar[str] = "bypass-codes"
    stage: ClassVar[Stage] = Stage.LOWER
    promise: ClassVar[str] = "bounded"

    def apply(self, model: ir.Model) -> Applied:
        """Look at every DequantizeLinear."""
        found: list[Site | Declined | None] = []
        for graph in (model.graph, *model.graph.subgraphs()):
            found += [_bypass(node) for node in list(graph) if node.op_type == "DequantizeLinear" and not node.domain]
        return Applied.of(model, found)


def _bypass(back: ir.Node) -> Site | Declined | None:
    there = back.inputs[0].producer() if back.inputs[0] is not None else None
    if there is None or there.op_type != "QuantizeLinear" or there.domain or not _same_parameters(there, back):
        return None
    x, y = there.inputs[0], back.outputs[0]
    uses = [use for use in y.uses() if use.node.op_type not in PRODUCTS or use.node.domain]
    if x is None or x.dtype not in (None, y.dtype):
        return None
    if y.is_graph_output():
        return Declined(y.name or "", "an output of the model")
    if not uses:
        return None
    for use in uses:
        use.node.replace_input_with(use.idx, x)
    drop_dead([back])
    return Site(x.name or "", tuple(dict.fromkeys(use.node.op_type for use in uses)), "read as it is, not as codes")


def _same_parameters(there: ir.Node, back: ir.Node) -> bool:
    """Whether both have the same constants and axes, so that one undoes the other."""
    pairs = zip(there.inputs[1:], back.inputs[1:], strict=False)
    axes = [node.attributes.get_int(key, 0) for key in ("axis", "block_size") for node in (there, back)]
    same = len(there.inputs) == len(back.inputs) and axes[0] == axes[1] and axes[2] == axes[3]
    return same and all(one is other for one, other in pairs)
