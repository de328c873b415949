"""Quantize what goes into the quantized MatMuls to 8 bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import onnx_ir as ir

from bct_onnx.base import Declined, NodePass, Outcome, Site, Stage
from bct_onnx.errors import UsageError
from bct_onnx.forms import codes, weights
from bct_onnx.forms.ranges import NOISE, is_guess, is_random_share, span_of, widened
from bct_onnx.graph import functions, logarithms, tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.known import size_of
from bct_onnx.graph.signals import signals


@dataclasses.dataclass(frozen=True)
class QuantizeActivations(NodePass):
    """Quantize the input of every MatMul with a quantized weight to 8 bits.

    Why:
        Integer kernels need both sides in integers. One scale per token (row) depends on that token alone: the same
        text gives the same result in every batch and with any padding. One scale per tensor found at run time is a
        little faster, and is not. A static scale, from calibration, is both: nothing is searched at run time. One scale
        per block of a token is the finest, and what the BCT paper does with intermediate results.

    Before/after:
        ``MatMul(x, W)`` becomes ``MatMul(DequantizeLinear(QuantizeLinear(x, s), s), W)`` with ``s = TokenScale(x)``;
        MatMuls of the same x share one quantization. Static: ``s`` is a constant, codes are uint8 and whatever uses x
        reads them.

    Declines:
        MatMuls whose weight has a float scale per block, since no integer kernel with one scale per column fits them.
        Those whose logarithm is taken, as of the energies of sound: codes of the loud leave nothing of the quiet.
        Blocks: inputs that the block does not divide. Static scales from random signals (see below).

    Random signals:
        Ranges that random pictures, sounds or features gave would clip what a trained model does with real ones.
        Without data such values get one scale per token, found at run time; what depends on tokens alone is static.

    One-sided activations:
        Gelu never falls below -0.17, SiLU below -0.28, Relu, Sigmoid and Softmax below 0. Where one of these feeds a
        MatMul the zero point moves down and nearly all 256 codes go to the positive side, at no cost.

    Options:
        per: token (batch-invariant), tensor, static (calibrated; per token where no statistics are known), or block (of
            a token).
        block: Values per scale with per=block.
        scale: real, or shift: the next power of two (static only).
        floats: Also where the weight is a float32 constant, to see what activations alone cost.
        noise: Static scales that only random signals tell: token (found at run time instead), float (left in floats,
            where scales have to be constants), margin (1.5 times the range, where floats do not run), or static
            (trust them).

    Promise:
        Bounded: each value moves by at most half of its row's (tensor's, block's) maximum / 127; static ones that lie
        outside their range, as for quantize-intermediates, are clipped.
    """

    name: ClassVar[str] = "quantize-activations"
    stage: ClassVar[Stage] = Stage.CODE
    promise: ClassVar[str] = "bounded"
    operators: ClassVar[tuple[str, ...]] = ("MatMul",)

    per: Literal["token", "tensor", "static", "block"] = "token"
    block: int = 64
    scale: Literal["real", "shift"] = "real"
    floats: bool = False
    noise: Literal["token", "float", "margin", "static"] = "token"

    def __post_init__(self) -> None:
        if self.block < 2:
            raise UsageError(f"block={self.block} is not allowed", fix="use 16 or more values per block")

    def rewriter(self, model: ir.Model, nodes: Sequence[ir.Node]) -> Callable[[ir.Node], Outcome]:
        """MatMuls of the same input share its quantization."""
        guessed = signals(model) if self.noise != "static" else set[ir.Value]()
        quantized: _Quantized = {}
        return lambda node: self._rewrite(model, node, guessed, quantized)

    def _rewrite(self, model: ir.Model, node: ir.Node, guessed: set[ir.Value], quantized: _Quantized) -> Outcome:
        source, right = node.inputs[0], _right(node, floats=self.floats)
        if source is None:
            return None
        if right is None:
            if not tensors.is_constant_expression(node.inputs[1]):
                return None
            return Declined(node.name or "", "its weight is not stored as integers with a scale per column")
        if logarithms.becomes_logarithm(node.outputs[0]):
            return Declined(source.name or "", logarithms.REASON)
        if codes.read(source) is not None:
            return None  # an integer function's codes, or done
        unsure = is_guess(source, guessed) or (self.noise != "static" and is_random_share(source))
        known = _is_calibrated(source) and not (unsure and self.noise == "token")
        if unsure and self.per == "static" and self.noise == "float":
            return Declined(source.name or "", NOISE)
        per = self.per if known or self.per != "static" else "token"
        if reason := self._refuse(source, right, per):
            return Declined(source.name or "", reason)
        site, key = None, (node.graph, source)
        if key not in quantized:
            quantized[key] = self._quantize(model, node, source, right, per, unsure=unsure)
            why = ""
            if per != self.per:
                why = f": {NOISE}" if unsure else ": no statistics are known"
            site = Site(source.name or "", ("MatMul",), f"int8, {_SCALES[per]}{why}")
        if per != "static":
            _feed(node, quantized[key], right)
        return site

    def _refuse(self, source: ir.Value, right: _Right, per: str) -> str:
        if per == "block" and right.k % self.block:
            return f"blocks of {self.block} do not divide its {right.k} channels"
        if per in ("token", "block") and source.shape is not None and source.shape.rank() == 1:
            return "it is a vector: a scale of one number is taken for one of the whole tensor, which has no blocks"
        return ""

    def _quantize(
        self, model: ir.Model, node: ir.Node, source: ir.Value, right: _Right, per: str, *, unsure: bool
    ) -> ir.Value:
        if per == "static":
            span = span_of(source)
            assert span is not None
            span = widened(span, 8) if unsure else span
            return codes.insert(source, span.shifted(8) if self.scale == "shift" else span)
        edit = Edit(node, source.name or "activation")
        if right.dtype != ir.DataType.FLOAT:
            source = edit.op("Cast", source, to=ir.DataType.FLOAT, name="float")
        if per == "tensor":
            edit.op("DynamicQuantizeLinear", source, outputs=3, name="codes")
            return edit.op("DequantizeLinear", *edit.made[-1].outputs, name="value")
        if per == "block":
            return self._blocks(model, edit, source)
        return self._tokens(model, edit, source, right.k)

    def _tokens(self, model: ir.Model, edit: Edit, source: ir.Value, k: int) -> ir.Value:
        """One scale per row of ``k`` channels, found at run time, and one zero point for all."""
        below = levels_below_zero(source)
        spans: dict[str, Any] = {"above": float(255 - below), "below": float(min(below, 127) or 1)}
        domain = functions.use(model, "TokenScale")
        scale = edit.op("TokenScale", source, domain=domain, name="scale", **spans)
        block: dict[str, Any] = {"axis": -1, "block_size": k}
        if below == SYMMETRIC:
            kind = ir.DataType.INT8
            quantized = edit.op("QuantizeLinear", source, scale, name="codes", output_dtype=kind, **block)
            return edit.op("DequantizeLinear", quantized, scale, name="value", **block)
        zero_point = edit.scalar("zero_point", below - 128, ir.DataType.INT8)
        points = edit.op("Expand", zero_point, edit.op("Shape", scale), name="zero_points")
        quantized = edit.op("QuantizeLinear", source, scale, points, name="codes", **block)
        return edit.op("DequantizeLinear", quantized, scale, points, name="value", **block)

    def _blocks(self, model: ir.Model, edit: Edit, source: ir.Value) -> ir.Value:
        """One scale per block along the last axis: a blocked QuantizeLinear whose scales are found at run time."""
        domain = functions.use(model, "BlockScale")
        scale = edit.op("BlockScale", source, domain=domain, tail=[-1, self.block], name="scale")
        block: dict[str, Any] = {"axis": -1, "block_size": self.block}
        quantized = edit.op("QuantizeLinear", source, scale, name="codes", output_dtype=ir.DataType.INT8, **block)
        return edit.op("DequantizeLinear", quantized, scale, name="value", **block)


_Quantized = dict[tuple[ir.Graph | ir.Function | None, ir.Value], ir.Value]
"""What a value of a graph became."""

_SCALES = {
    "token": "one scale per token",
    "tensor": "one scale per tensor",
    "static": "one calibrated scale",
    "block": "one scale per block of a token",
}

SYMMETRIC = 128
"""Levels below zero where both signs occur alike: the signed codes have zero point 0."""

_SIDES = {"Gelu": 32, "Relu": 0, "Sigmoid": 0, "Softmax": 0}


def levels_below_zero(value: ir.Value) -> int:
    """How many of the 256 codes go below zero: few where the operator that made ``value`` is bounded there.

    With 32 levels below, Gelu keeps its full negative side wherever a row reaches 223/32 * 0.17 = 1.2; where a row
    stays below that, the negative side sets the scale.
    """
    producer = value.producer()
    if producer is not None:
        return _SIDES.get(producer.op_type, SYMMETRIC)
    return SYMMETRIC


def _is_calibrated(source: ir.Value) -> bool:
    return source.producer() is not None and not source.is_graph_output() and span_of(source) is not None


@dataclasses.dataclass(frozen=True)
class _Right:
    """The right side of a MatMul: length of the contracted axis, type in the graph, and itself as float32."""

    k: int
    dtype: ir.DataType
    float32: ir.Value


def _right(node: ir.Node, *, floats: bool) -> _Right | None:
    value = node.inputs[1]
    if (stored := weights.read(value)) is not None:
        return _Right(stored.k, stored.dtype, stored.float32)
    if not floats or value is None or not (value.is_initializer() or tensors.is_constant_expression(value)):
        return None
    k = size_of(value, 0, rank=2)
    if k is None or value.dtype != ir.DataType.FLOAT:
        return None
    return _Right(k, ir.DataType.FLOAT, value)


def _feed(node: ir.Node, value: ir.Value, right: _Right) -> None:
    """Give ``value`` (float32) to the MatMul; in a half-precision model the product is cast back."""
    if right.dtype == ir.DataType.FLOAT:
        node.replace_input_with(0, value)
        return
    edit = Edit(node)
    product = edit.op("MatMul", value, right.float32)
    edit.replace(node.outputs[0], edit.op("Cast", product, to=right.dtype, name="typed"))
