"""Attention in matrix products and a softmax: the parts that a standard ``Attention`` is written out in."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bct_onnx.forms.attention import groups_of, heads_of, is_merged
from bct_onnx.graph.edit import Edit


def split_heads(edit: Edit, node: ir.Node, index: int) -> ir.Value:
    """Queries (0), keys (1) or values (2) as ``[B, H, S, D]``; what has four axes stays."""
    value = node.inputs[index]
    assert value is not None
    if not is_merged(node):
        return value
    shape = edit.shape("heads", [0, 0, heads_of(node, index) or 0, -1])
    return edit.op("Transpose", edit.op("Reshape", value, shape, name="apart"), perm=[0, 2, 1, 3], name="heads")


def repeat_heads(edit: Edit, node: ir.Node, value: ir.Value) -> ir.Value:
    """Each head of ``[B, H, S, D]`` as often as queries share it."""
    groups = groups_of(node)
    if groups == 1:
        return value
    axes = edit.op("Unsqueeze", value, edit.shape("axis", [2]), name="grouped")
    repeated = edit.op("Tile", axes, edit.shape("times", [1, 1, groups, 1, 1]), name="repeated")
    around = edit.op("Shape", value, start=2, name="around")
    shape = edit.op("Concat", edit.shape("flat", [0, -1]), around, axis=0, name="shape")
    return edit.op("Reshape", repeated, shape, name="every_head")


def added_mask(edit: Edit, mask: ir.Value, kind: ir.DataType) -> ir.Value:
    """A boolean mask as what is added: 0 where it is true, the least number elsewhere."""
    if mask.dtype != ir.DataType.BOOL:
        return mask
    least = float(np.finfo(kind.numpy()).min)
    return edit.op("Where", mask, edit.scalar("none", 0.0, kind), edit.scalar("least", least, kind), name="mask")


def causal_mask(edit: Edit, scores: ir.Value) -> ir.Value:
    """A mask that is true where a key does not come after the query."""
    shape = edit.op("Shape", scores, start=2, name="sizes")
    ones = edit.op("ConstantOfShape", shape, value=ir.tensor([1.0], dtype=ir.DataType.FLOAT), name="ones")
    earlier = edit.op("Cast", edit.op("Trilu", ones, upper=0, name="lower"), to=ir.DataType.BOOL, name="earlier")
    earlier.dtype = ir.DataType.BOOL
    return earlier


def softmax(edit: Edit, node: ir.Node, scores: ir.Value, kind: ir.DataType) -> ir.Value:
    """The softmax over the keys, in the precision that the attention asks for."""
    precision = ir.DataType(node.attributes.get_int("softmax_precision", kind.value))
    if precision == kind:
        return edit.op("Softmax", scores, axis=-1)
    wide = edit.op("Cast", scores, to=precision, name="wide")
    return edit.op("Cast", edit.op("Softmax", wide, axis=-1), to=kind, name="typed")
