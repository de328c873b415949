"""Quantize with ONNX Runtime's own operator where the oldest runtime has no kernel for the standard one."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, NodePass, Outcome, Site, Stage
from bct_onnx.graph import kernels, quantizers


@dataclasses.dataclass(frozen=True)
class LowerQuantize(NodePass):
    """Write ``QuantizeLinear`` of opset 23 and later as ONNX Runtime's operator of that name.

    Why:
        ONNX Runtime 1.23, the oldest that results are made for, has no kernel that a ``QuantizeLinear`` of opset 23
        finds, and ``Attention`` in no lower opset. ``com.microsoft::QuantizeLinear`` is the same kernel in all versions
        and takes part in the same fusions: newer versions run the same operators in the same time.

    Before/after:
        ``QuantizeLinear(x, scale, zero)`` becomes ``com.microsoft::QuantizeLinear(x, scale, zero)``. Blocks of the last
        axis (one scale per token is a block as long as that axis) become rows of a matrix with one scale each.
        ``form=standard``: the model goes down to opset 22, whose ``QuantizeLinear`` has a kernel, and stays as it is;
        also where the runtime's optimizer would write one, moving a ``DequantizeLinear`` behind a ``Transpose``. Models
        of later opsets (`normalize` was left out) go down in both forms, as there ``DequantizeLinear`` has none either.

    Declines:
        Blocks of another axis, and blocks that are not known to divide the last one. ``form=standard``: models with
        operators that opset 22 does not have. Below opset 23 all stays.

    Options:
        form: ``own`` (default) writes ONNX Runtime's operator; ``standard`` looks for an opset.

    Promise:
        Exact. In float16 one code in eighty is its neighbour: the standard operator divides in float16, ONNX Runtime's
        in float32, and so does a ``Div`` before it, as the casts around that are optimized away.
    """

    name: ClassVar[str] = "lower-quantize"
    stage: ClassVar[Stage] = Stage.LOWER

    form: Literal["own", "standard"] = "own"
    operators: ClassVar[tuple[str, ...]] = ("QuantizeLinear",)

    def apply(self, model: ir.Model) -> Applied:
        """Rewrite every quantization, subgraphs included."""
        if not quantizers.lack_kernel(model):
            return Applied(model)
        if self.form == "own" and kernels.runtime(kernels.LOWEST).runs("DequantizeLinear", model.opset_imports[""]):
            return super().apply(model)
        lowered = _lowered(model)
        if self.form == "own" and isinstance(lowered, Declined):
            return super().apply(model)
        return Applied.of(model, [lowered])

    def rewrite(self, node: ir.Node, model: ir.Model) -> Outcome:
        """Give it to ONNX Runtime's own operator."""
        name = node.name or node.op_type
        reason = quantizers.respell(model, node)
        if reason:
            return Declined(name, reason)
        return Site(name, ("QuantizeLinear",))


def _lowered(model: ir.Model) -> Site | Declined:
    """Bring the model to the highest opset that has all kernels."""
    steps, reason = quantizers.bring_down(model)
    if not steps:
        return Declined("QuantizeLinear", f"{reason}, and the model needs that opset")
    after = model.opset_imports[""]
    return Site("opset", (f"opset {after + steps}",), f"{after + steps} -> {after}; {reason}")
