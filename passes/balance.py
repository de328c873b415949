"""Move outlier channels from what is added to the residual stream into weights."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from bct_onnx.base import Declined, NodePass, Outcome, Site, Stage
from bct_onnx.errors import UsageError
from bct_onnx.forms.factors import multiply_back, outlier_factors
from bct_onnx.forms.linear import Linear, bias_of
from bct_onnx.forms.residual import is_residual
from bct_onnx.graph import tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.runtime.statistics import KEY, measured


@dataclasses.dataclass(frozen=True)
class Balance(NodePass):
    """Divide the outlier channels of a linear layer's output by a factor, where it goes into a residual addition.

    Why:
        One int8 scale per tensor must fit its largest channel. Columns of a weight have a scale each, so dividing a
        column and its bias costs nothing, and the addition multiplies each channel by an integer anyway.

    Before/after:
        ``Add(h, MatMul(x, W) + b)`` becomes ``Add(h, (MatMul(x, W/f) + b/f) * f)`` with f the largest magnitude of each
        channel over 1.5 times their median, at least 1.

    Declines:
        Outputs without statistics (see calibrate), without outliers, or whose weight is shared.

    Options:
        block: Channels that share a factor; more than 1 as in smooth: one static scale per block.
        scale: real, or shift: the factors are powers of two.

    Promise:
        Exact up to float rounding.
    """

    name: ClassVar[str] = "balance"
    stage: ClassVar[Stage] = Stage.PREPARE

    block: int = 1
    scale: Literal["real", "shift"] = "real"

    def __post_init__(self) -> None:
        if self.block < 1:
            raise UsageError(f"block={self.block} is not allowed", fix="use 1 or more channels")

    operators: ClassVar[tuple[str, ...]] = ("MatMul",)
    inner: ClassVar[bool] = False

    def rewrite(self, node: ir.Node, model: ir.Model) -> Outcome:
        """Balance a linear layer that feeds a residual addition."""
        linear, (addition, bias) = Linear.of(node), bias_of(node)
        output = (addition or node).outputs[0]
        if linear is None or linear.refusal or not any(map(is_residual, output.consumers())):
            return None
        statistics = measured(output)
        if statistics is None:
            return Declined(output.name or "", "no statistics; run calibrate first")
        if linear.is_shared:
            return Declined(output.name or "", "its weight is shared with another operator")
        shift = self.scale == "shift"
        factors, reason = outlier_factors(statistics.max_abs, 1.0, self.block, shift=shift, above=1.5)
        if factors is None:
            return Declined(output.name or "", reason)
        linear.scale((1 / factors).astype(np.float32), axis=1)
        if addition is not None and bias is not None:
            array = tensors.array(bias)
            divided = Edit(addition).constant(f"{bias.name}.balanced", (array / factors).astype(array.dtype))
            addition.replace_input_with(list(addition.inputs).index(bias), divided)
        output.meta[KEY] = statistics.divided(factors)
        multiply_back(output, list(output.uses()), factors)
        return Site(output.name or "", ("MatMul", "Add"), f"largest factor {factors.max():.1f}")
