"""Quantize with ONNX Runtime's own operator where the oldest runtime has no kernel for the standard one."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site
from bct_onnx.graph import quantizers, shapes


@dataclasses.dataclass(frozen=True)
class LowerQuantize(Pass):
    """Write ``QuantizeLinear`` of opset 23 and later as ONNX Runtime's operator of that name.

    Why:
        ONNX Runtime 1.23, the oldest that results are made for, has no kernel that a ``QuantizeLinear`` of opset 23
        finds, and ``Attention`` in no lower opset. ``com.microsoft::QuantizeLinear`` is the same kernel in all versions
        and takes part in the same fusions: newer versions run the same operators in the same time.

    Before/after:
        ``QuantizeLinear(x, scale, zero)`` becomes ``com.microsoft::QuantizeLinear(x, scale, zero)``. Blocks of the last
        axis (one scale per token is a block as long as that axis) become rows of a matrix with one scale each.

    Declines:
        Blocks of another axis, or of unknown number; codes whose type no zero point says. Below opset 23 all stays.

    Options:
        None.

    Promise:
        Exact.
    """

    name: ClassVar[str] = "lower-quantize"

    def apply(self, model: ir.Model) -> Applied:
        """Rewrite every quantization, subgraphs included."""
        nodes = quantizers.without_kernel(model)
        if any("block_size" in node.attributes for node in nodes):
            shapes.infer(model)
        found: list[Site | Declined] = []
        for node in nodes:
            name = node.name or node.op_type
            reason = quantizers.respell(model, node)
            found.append(Declined(name, reason) if reason else Site(name, ("QuantizeLinear",)))
        return Applied.of(model, found)
