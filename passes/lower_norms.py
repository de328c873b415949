"""Run residual sums and normalizations of codes as the float operators of ONNX Runtime's CPU provider."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import onnx_ir as ir

from bct_onnx.base import Applied, NodePass, NodeRewriter, Outcome, Site, Stage
from bct_onnx.forms import codes, residual
from bct_onnx.forms.products import BIAS, COLUMN_SCALE, PRODUCT
from bct_onnx.forms.residual import Side
from bct_onnx.graph import tensors
from bct_onnx.graph.edit import Edit, drop_dead

NORMS = {"IntegerLayerNorm": "LayerNormalization", "IntegerRMSNorm": "RMSNormalization"}
"""Normalizations of codes, and the float operators that stand between codes for them."""


@dataclasses.dataclass(frozen=True)
class LowerNorms(NodePass):
    """Give residual sums and normalizations of codes to the float operators of the runtime.

    Why:
        The runtime has no integer operator for either. As loops of integer operators a normalization costs four times
        its float operator between codes, and a sum takes six operators where the float one takes one. The sum of a
        residual stream has 32 bits in both forms.

    Before/after:
        ``IntegerLayerNorm(IntegerAdd(a, b))`` becomes ``Q(LayerNormalization(Add(DQ(a), DQ(b))))``. Codes that a
        product was rounded to for the sum alone go: the product is added as it is, and factors of its channels (see
        balance) move into its scales and bias.

    Declines:
        Nothing: what stays in its portable form runs too.

    Options:
        form: ``float``; or ``integer``, which leaves ``IntegerAdd``, ``IntegerLayerNorm`` and ``IntegerRMSNorm`` as
            they are.

    Promise:
        Bounded: normalizations of the same codes differ by at most one code; sums are nearer to those of the float
        model by half a step of each product that is no longer rounded.
    """

    name: ClassVar[str] = "lower-norms"
    stage: ClassVar[Stage] = Stage.LOWER
    promise: ClassVar[str] = "bounded"

    form: Literal["float", "integer"] = "float"
    operators: ClassVar[tuple[str, ...]] = ("ai.bct::IntegerAdd", *(f"ai.bct::{name}" for name in NORMS))

    def apply(self, model: ir.Model) -> Applied:
        """Lower every residual sum and normalization of codes."""
        if self.form == "integer":
            return Applied(model)
        return super().apply(model)

    def rewriter(self, model: ir.Model, nodes: Sequence[ir.Node]) -> NodeRewriter:
        """Sums are known by their codes to what reads these."""
        return _Lowering()


class _Lowering(NodeRewriter):
    def __init__(self) -> None:
        self._sums: dict[ir.Value, ir.Value] = {}
        self._additions: list[ir.Node] = []

    def __call__(self, node: ir.Node) -> Site:
        if node.op_type != "IntegerAdd":
            return _norm(node, self._sums)
        self._additions.append(node)
        return _add(node, self._sums)

    def finish(self) -> Iterable[Outcome]:
        """Drop the sums of integers whose codes nobody reads any more."""
        drop_dead(self._additions)
        return ()


def _add(node: ir.Node, sums: dict[ir.Value, ir.Value]) -> Site:
    """The sum as a float, for whatever reads its codes; ``sums`` knows it by them."""
    edit = Edit(node)
    sides = [_side(edit, side, sums) for side in residual.read(node)]
    total = edit.op("Add", *sides, name="float")
    total.dtype, total.shape = ir.DataType.FLOAT, node.outputs[0].shape
    sums[node.outputs[0]] = total
    for value in codes.values_of(node.outputs[0]):
        edit.replace(value, total, also=[node])
    return Site(node.name or "", (node.op_type,), "the float operator")


def _side(edit: Edit, side: Side, sums: dict[ir.Value, ir.Value]) -> ir.Value:
    """One side of a sum as a float."""
    if side.codes in sums:
        return sums[side.codes]
    factors = codes.vector(side.scale)
    if factors is None or factors.ndim == 0:
        return _float(edit, side)
    quantize = _quantize(side)
    step = quantize.inputs[1] if quantize is not None else None
    if step is None:
        step = edit.scalar("one", 1.0, ir.DataType.FLOAT)
    return _scaled(edit, _float(edit, Side(side.codes, step, side.zero_point)), side.scale, step)


def _quantize(side: Side) -> ir.Node | None:
    """The QuantizeLinear that made the codes."""
    node = side.codes.producer()
    if node is not None and node.op_identifier() == ("", "QuantizeLinear", ""):
        return node
    return None


def _float(edit: Edit, side: Side) -> ir.Value:
    """The value of codes; where they were made for this alone, what they were made from."""
    quantize = _quantize(side)
    if quantize is not None and quantize.inputs[1] is side.scale and len(side.codes.uses()) == 1:
        source = quantize.inputs[0]
        if source is not None and source.dtype in (None, ir.DataType.FLOAT):
            return source
    result = edit.op("DequantizeLinear", side.codes, side.scale, side.zero_point, name="value")
    result.dtype, result.shape = ir.DataType.FLOAT, side.codes.shape
    return result


def _scaled(edit: Edit, value: ir.Value, scale: ir.Value, step: ir.Value) -> ir.Value:
    """``value * scale / step``; of a product that nothing else reads, column scales and bias take the factors."""
    product = value.producer()
    if product is None or product.op_type != PRODUCT or len(value.uses()) > 1:
        factors = edit.op("Div", scale, step, name="factors")
        scaled = edit.op("Mul", value, factors, name="scaled")
        scaled.dtype, scaled.shape = ir.DataType.FLOAT, value.shape
        return scaled
    inner = Edit(product)
    factors = inner.op("Div", scale, step, name="factors")
    for index in (COLUMN_SCALE, BIAS):
        if index < len(product.inputs) and product.inputs[index] is not None:
            product.replace_input_with(index, inner.op("Mul", product.inputs[index], factors, name="scaled"))
    return value


def _norm(node: ir.Node, sums: dict[ir.Value, ir.Value]) -> Site:
    """The float operator, which gives codes or reads them."""
    x, scale, *rest, y_scale, y_zero = node.inputs
    zero = [rest.pop(0)] if node.op_type == "IntegerRMSNorm" else []  # the other does not depend on it
    *parameters, epsilon = rest
    assert x is not None and epsilon is not None
    edit = Edit(node)
    value = sums.get(x) or edit.op("DequantizeLinear", x, scale, *zero, name="value")
    options: dict[str, Any] = {"axis": -1, "epsilon": float(tensors.array(epsilon))}
    normalized = edit.op(NORMS[node.op_type], value, *parameters, name="norm", **options)
    normalized.dtype, normalized.shape = ir.DataType.FLOAT, node.outputs[0].shape
    edit.replace(node.outputs[0], edit.op("QuantizeLinear", normalized, y_scale, y_zero, name="codes"))
    return Site(node.name or "", (node.op_type,), "the float operator between codes")
