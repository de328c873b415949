"""Move outlier channels from activations into weights."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import onnx_ir as ir

from bct_onnx.base import Declined, NodePass, Outcome, Site, Stage
from bct_onnx.errors import UsageError
from bct_onnx.forms.factors import Factors, multiply_back, outlier_factors
from bct_onnx.forms.linear import NORMS, Linear
from bct_onnx.graph import tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.neighbours import provided, uses_outside
from bct_onnx.runtime.statistics import KEY, measured


@dataclasses.dataclass(frozen=True)
class Smooth(NodePass):
    """Divide the outlier channels of a normalization's output by a factor, and multiply the rows of the weights by it.

    Why:
        One int8 scale per token must fit its largest channel; a channel thirty times the others leaves them three
        bits. The product is the same when channel k is divided by f[k] and row k of every weight multiplied by it
        (SmoothQuant, arXiv 2211.10438), and weights take a larger row more easily: their scales are per block and
        weighted.

    Before/after:
        ``MatMul(LayerNormalization(h), W)`` becomes ``MatMul(LayerNormalization'(h), f * W)`` with
        ``f = max(1, (m / median m) ** strength)`` and m the largest magnitude of each channel; 1/f goes into the scale
        and bias of the normalization and costs nothing. What else uses it (a residual stream) gets ``* f``.

    Declines:
        Values without statistics (see calibrate), without outliers, whose weights are shared with other operators, or
        that no MatMul with a constant weight uses directly.

    Options:
        strength: Exponent: 0 does nothing, 1 makes all channels alike.
        block: Channels that share a factor. With more than 1, m is a block's maximum and is compared with the least
            block's instead of the median: with strength 1, that is one static scale per block.
        scale: real, or shift: the factors are powers of two.

    Promise:
        Exact up to float rounding.
    """

    name: ClassVar[str] = "smooth"
    stage: ClassVar[Stage] = Stage.PREPARE

    strength: float = 0.5
    block: int = 1
    scale: Literal["real", "shift"] = "real"

    def __post_init__(self) -> None:
        if self.block < 1:
            raise UsageError(f"block={self.block} is not allowed", fix="use 1 or more channels")
        if not 0 <= self.strength <= 1:
            raise UsageError(f"strength={self.strength} is not allowed", fix="use a number from 0 to 1")

    operators: ClassVar[tuple[str, ...]] = NORMS
    inner: ClassVar[bool] = False

    def rewrite(self, node: ir.Node, model: ir.Model) -> Outcome:
        """Smooth the output of a normalization that feeds weights."""
        source, linears = node.outputs[0], _linears(node)
        if not linears:
            return Declined(source.name or "", "no MatMul with a constant weight uses it directly")
        statistics = measured(source)
        if statistics is None:
            return Declined(source.name or "", "no statistics; run calibrate first")
        if any(linear.is_shared for linear in linears):
            return Declined(source.name or "", "a weight is shared with another operator")
        factors, reason = outlier_factors(statistics.max_abs, self.strength, self.block, shift=self.scale == "shift")
        if factors is None:
            return Declined(source.name or "", reason)
        for linear in linears:
            linear.scale(factors, axis=0)
        users, cost = [linear.node for linear in linears], "one Mul"
        others = uses_outside(source, users)
        if _fold(node, factors):
            cost = "one Mul for what else uses it" if others or source.is_graph_output() else "at no cost"
            multiply_back(source, others, factors)
        else:
            _divide(node, users, factors)
        return Site(source.name or "", (node.op_type, "MatMul"), f"largest factor {factors.max():.1f}, {cost}")


def _linears(norm: ir.Node) -> list[Linear]:
    """The linear layers that a normalization feeds on the left."""
    linears = {}
    for node, index in norm.outputs[0].uses():
        linear = Linear.of(node) if index == 0 and node.graph is norm.graph else None
        if linear is not None and not linear.refusal:
            linears[node] = linear
    return list(linears.values())


def _fold(norm: ir.Node, factors: Factors) -> bool:
    """Divide the scale and bias of a normalization; False if they are no constants of one number per channel."""
    parameters = provided(norm.inputs[1:3])
    for value in parameters:
        if not value.is_initializer() or value.const_value is None or value.const_value.shape != factors.shape:
            return False
    edit = Edit(norm)
    for index, value in enumerate(parameters, start=1):
        array = tensors.array(value)
        norm.replace_input_with(index, edit.constant(f"{value.name}.smooth", (array / factors).astype(array.dtype)))
    norm.outputs[0].meta[KEY] = norm.outputs[0].meta[KEY].divided(factors)
    return True


def _divide(norm: ir.Node, users: list[ir.Node], factors: Factors) -> None:
    source = norm.outputs[0]
    edit = Edit(norm, source.name or "smooth", after=True)
    kind = source.dtype or ir.DataType.FLOAT
    inverse = edit.constant(f"{source.name}.smooth", (1 / factors).astype(kind.numpy()))
    smooth = edit.op("Mul", source, inverse, name="smooth")
    smooth.dtype, smooth.shape = kind, source.shape
    smooth.meta[KEY] = source.meta[KEY].divided(factors)
    for user in users:
        user.replace_input_with(0, smooth)
