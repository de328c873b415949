"""Normalizations with what ONNX Runtime's optimizers put into them: sums, biases, embeddings."""

from __future__ import annotations

import onnx_ir as ir

from bct_onnx.graph.contrib.lifting import Lift, Rule
from bct_onnx.graph.neighbours import attributes_of, op_types, producers, provided

_STATISTICS = "its mean or deviation is used, which only training reads"


def simplified(lift: Lift) -> list[ir.Value | None] | str:
    """``SimplifiedLayerNormalization``: RMS normalization under the name that it had before opset 23."""
    if lift.used(1):
        return _STATISTICS
    attributes = attributes_of(lift.node)
    return [lift.typed("RMSNormalization", *lift.node.inputs[:2], **{"epsilon": 1e-5, "axis": -1} | attributes)]


def skip_simplified(lift: Lift) -> list[ir.Value | None] | str:
    """``RMS(input + skip + bias) * gamma``; the sum may be an output as well."""
    if lift.used(1, 2):
        return _STATISTICS
    total = _sum(lift, lift.input(3))
    y = lift.typed("RMSNormalization", total, lift.input(2), axis=-1, epsilon=lift.number("epsilon", 1e-12))
    return [y, None, None, total]


def skip_layer_norm(lift: Lift) -> list[ir.Value | None] | str:
    """``LayerNormalization(input + skip + bias, gamma, beta)``; the sum may be an output as well."""
    if lift.used(1, 2):
        return _STATISTICS
    total = _sum(lift, lift.input(4))
    return [_layer_norm(lift, total, lift.input(2), lift.input(3)), None, None, total]


def embeddings(lift: Lift) -> list[ir.Value | None] | str:
    """Rows of up to three tables, their sum normalized; and how many ones each row of the mask has."""
    ids, segments, words, positions, table, gamma, beta = map(lift.input, range(7))
    assert ids is not None and words is not None and positions is not None
    where = lift.input(8)
    if where is None:
        where = lift.once(("positions", id(ids)), lambda: _positions(lift, ids))
    total = lift.typed("Gather", words, ids, name="words")
    total = lift.typed("Add", total, lift.typed("Gather", positions, where, name="positions"), name="placed")
    if segments is not None and table is not None:
        total = lift.typed("Add", total, lift.typed("Gather", table, segments, name="segments"), name="sum")
    counted = _ones(lift, ids) if lift.used(1) else None
    return [_layer_norm(lift, total, gamma, beta), counted, total]


def _sum(lift: Lift, bias: ir.Value | None) -> ir.Value:
    """``input + skip + bias``; the bias goes to the side that is a product, as its layer had it before."""
    sides = [lift.given(0), lift.given(1)]
    layer = next((i for i, side in enumerate(sides) if _is_product(side)), 0)
    sides[layer] = lift.plus(sides[layer], bias, name="biased")
    return lift.typed("Add", *sides, name="skipped")


def _is_product(value: ir.Value) -> bool:
    return op_types(producers([value])) in (("MatMul",), ("FusedMatMul",)) and len(value.uses()) == 1


def _layer_norm(lift: Lift, x: ir.Value, gamma: ir.Value | None, beta: ir.Value | None) -> ir.Value:
    return lift.typed("LayerNormalization", x, gamma, *provided([beta]), axis=-1, epsilon=lift.number("epsilon", 1e-12))


def _positions(lift: Lift, ids: ir.Value) -> ir.Value:
    """``[S]`` from 0 on."""
    length = lift.op("Squeeze", lift.size(ids, 1), name="length")
    return lift.count_to(length, ir.DataType.INT64, "position_ids")


def _ones(lift: Lift, ids: ir.Value) -> ir.Value:
    """``[B]`` int32: how many elements of a row of the mask are 1; 0 where there is no mask."""
    mask = lift.input(7)
    if mask is None:
        zero = ir.tensor([0], dtype=ir.DataType.INT32)
        return lift.op("ConstantOfShape", lift.size(ids, 0), value=zero, name="lengths")
    one = lift.scalar("one", 1, mask.dtype or ir.DataType.INT32)
    ones = lift.op("Cast", lift.op("Equal", mask, one, name="kept"), to=ir.DataType.INT32, name="ones")
    return lift.op("ReduceSum", ones, lift.shape("last", [1]), keepdims=0, name="lengths")


RULES: dict[str, Rule] = {
    "SimplifiedLayerNormalization": simplified,
    "SkipSimplifiedLayerNormalization": skip_simplified,
    "SkipLayerNormalization": skip_layer_norm,
    "EmbedLayerNormalization": embeddings,
}
