"""Move outlier channels from activations into weights."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from bct_onnx.errors import UsageError
from bct_onnx.forms.factors import Factors, multiply_back, outlier_factors
from bct_onnx.forms.linear import NORMS, Linear
from bct_onnx.graph import tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.runtime.statistics import KEY, ChannelStatistics


@dataclasses.dataclass(frozen=True)
class Smooth(Pass):
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

    def apply(self, model: ir.Model) -> Applied:
        """Smooth the output of every normalization that feeds weights."""
        sites: list[Site] = []
        declined: list[Declined] = []
        for norm in [node for node in model.graph if node.op_type in NORMS and not node.domain]:
            users = _users(norm)
            if not users:
                declined.append(
                    Declined(norm.outputs[0].name or "", "no MatMul with a constant weight uses it directly")
                )
                continue
            factors, reason = self._factors(norm, users)
            if factors is None:
                declined.append(Declined(norm.outputs[0].name or "", reason))
                continue
            for linear in users.values():
                linear.scale(factors, axis=0)
            others = [use for use in norm.outputs[0].uses() if use.node not in users]
            if _fold(norm, factors):
                multiply_back(norm.outputs[0], others, factors)
                cost = "one Mul for what else uses it" if others or norm.outputs[0].is_graph_output() else "at no cost"
            else:
                _divide(norm, list(users), factors)
                cost = "one Mul"
            note = f"largest factor {factors.max():.1f}, {cost}"
            sites.append(Site(norm.outputs[0].name or "", (norm.op_type, "MatMul"), note))
        return Applied(model, sites, declined)

    def _factors(self, norm: ir.Node, users: dict[ir.Node, Linear]) -> tuple[Factors | None, str]:
        statistics = norm.outputs[0].meta.get(KEY)
        if not isinstance(statistics, ChannelStatistics):
            return None, "no statistics; run calibrate first"
        if any(linear.is_shared for linear in users.values()):
            return None, "a weight is shared with another operator"
        return outlier_factors(statistics.max_abs, self.strength, self.block, shift=self.scale == "shift")


def _users(norm: ir.Node) -> dict[ir.Node, Linear]:
    """The MatMuls that a normalization feeds on the left, with their weights."""
    uses = [use.node for use in norm.outputs[0].uses() if use.idx == 0]
    linears = {node: linear for node in uses if (linear := Linear.of(node)) is not None and not linear.refusal}
    return {node: linear for node, linear in linears.items() if node.graph is norm.graph}


def _fold(norm: ir.Node, factors: Factors) -> bool:
    """Divide the scale and bias of a normalization; False if they are no constants."""
    parameters = [value for value in norm.inputs[1:3] if value is not None]
    if any(not value.is_initializer() or value.const_value is None for value in parameters):
        return False
    edit = Edit(norm)
    arrays = [tensors.array(value) for value in parameters]
    if any(array.shape != factors.shape for array in arrays):
        return False
    for index, (value, array) in enumerate(zip(parameters, arrays, strict=True), start=1):
        norm.replace_input_with(index, edit.constant(f"{value.name}.smooth", (array / factors).astype(array.dtype)))
    statistics = norm.outputs[0].meta[KEY]
    norm.outputs[0].meta[KEY] = statistics.divided(factors)
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
