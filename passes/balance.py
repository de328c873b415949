"""Move outlier channels from what is added to the residual stream into weights."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site
from bct_onnx.errors import UsageError
from bct_onnx.graph import codes, tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.runtime.statistics import KEY, ChannelStatistics
from passes.quantize_weights import Found, find
from passes.smooth import is_shared, multiply_back, outlier_factors, scale_weight


@dataclasses.dataclass(frozen=True)
class Balance(Pass):
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

    block: int = 1
    scale: Literal["real", "shift"] = "real"

    def __post_init__(self) -> None:
        if self.block < 1:
            raise UsageError(f"block={self.block} is not allowed", fix="use 1 or more channels")

    def apply(self, model: ir.Model) -> Applied:
        """Balance every linear layer that feeds a residual addition."""
        sites: list[Site] = []
        declined: list[Declined] = []
        for node in list(model.graph):
            found = find(node)
            if found is None or found.reason or node.op_type != "MatMul":
                continue
            addition, bias = bias_of(node)
            output = (addition or node).outputs[0]
            if not any(is_residual(use.node) for use in output.uses()):
                continue
            factors, reason = self._factors(output, found)
            if factors is None:
                declined.append(Declined(output.name or "", reason))
                continue
            scale_weight(found, (1 / factors).astype(np.float32), axis=1)
            if addition is not None and bias is not None:
                divided = (tensors.array(bias) / factors).astype(tensors.array(bias).dtype)
                edit = Edit(addition)
                addition.replace_input_with(
                    list(addition.inputs).index(bias), edit.constant(f"{bias.name}.balanced", divided)
                )
            output.meta[KEY] = output.meta[KEY].divided(factors)
            multiply_back(output, list(output.uses()), factors)
            sites.append(Site(output.name or "", ("MatMul", "Add"), f"largest factor {factors.max():.1f}"))
        return Applied(model, sites, declined)

    def _factors(self, output: ir.Value, found: Found) -> tuple[npt.NDArray[np.float32] | None, str]:
        statistics = output.meta.get(KEY)
        if not isinstance(statistics, ChannelStatistics):
            return None, "no statistics; run calibrate first"
        if is_shared(found):
            return None, "its weight is shared with another operator"
        return outlier_factors(statistics.max_abs, 1.0, self.block, shift=self.scale == "shift", above=1.5)


def bias_of(node: ir.Node) -> tuple[ir.Node | None, ir.Value | None]:
    """The Add of a constant vector, one value per column, that is all that follows a product, and that vector."""
    product = node.outputs[0]
    uses = list(product.uses())
    if len(uses) != 1 or product.is_graph_output() or uses[0].node.op_type != "Add" or uses[0].node.domain:
        return None, None
    bias = uses[0].node.inputs[1 - uses[0].idx]
    array = codes.vector(bias)
    values = sorted((product, node.inputs[1]), key=lambda value: value is None or not value.is_initializer())
    shapes = (value.shape for value in values if value is not None and value.shape is not None)  # the weight's is sure
    columns = next((shape[-1] for shape in shapes if shape.rank() and isinstance(shape[-1], int)), None)
    fits = array is not None and array.ndim == 1 and array.size == (columns or max(array.size, 2))
    return (uses[0].node, bias) if fits else (None, None)


def is_residual(node: ir.Node) -> bool:
    """Whether ``node`` adds two computed values of the same shape that are not both looked up in tables."""
    if node.op_type != "Add" or node.domain:
        return False
    if all(_is_looked_up(value) for value in node.inputs):
        return False
    shapes = [value.shape if value is not None and value.producer() is not None else None for value in node.inputs]
    return shapes[0] is not None and shapes[0].rank() > 1 and shapes[0] == shapes[1]


def _is_looked_up(value: ir.Value | None) -> bool:
    """Whether ``value`` is rows of a table, or a sum of such."""
    producer = value.producer() if value is not None else None
    if producer is None:
        return False
    if producer.op_type in ("Add", "Cast") and not producer.domain:
        return all(_is_looked_up(each) for each in producer.inputs)
    if producer.op_type == "Where" and not producer.domain:  # a table in parts
        return all(_is_looked_up(each) for each in producer.inputs[1:])
    return producer.op_type.startswith("Gather")
