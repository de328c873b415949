"""Attention in matrix products and a softmax: the parts that a standard ``Attention`` is written out in."""

from __future__ import annotations

import math

import onnx_ir as ir

from bct_onnx.forms.attention import groups_of, head_size, heads_of, is_merged
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.known import dtype_of
from bct_onnx.graph.neighbours import is_read, operand, operands

_PAST, _LENGTHS = slice(4, 6), 6
"""Inputs: keys and values of earlier tokens; how many keys of each row count."""


def write(node: ir.Node) -> str:
    """Write one ``Attention`` out; why not, if that cannot be.

    Keys and values of earlier tokens come before those of the node, and are given on with them.
    """
    if reason := _refusal(node):
        return reason
    edit, mask = Edit(node), operand(node, 3)
    dtype = dtype_of(node.inputs[0]) or ir.DataType.FLOAT
    queries, keys, values = (split_heads(edit, node, index) for index in range(3))
    past = operands(node, 6)[_PAST]
    if past[0] is not None:
        keys = edit.op("Concat", past[0], keys, axis=2, name="all_keys")
        values = edit.op("Concat", past[1], values, axis=2, name="all_values")
    present = keys, values
    scale = node.attributes.get_float("scale", 0.0) or 1 / math.sqrt(head_size(node))
    keys, values = (repeat_heads(edit, node, value) for value in present)
    scaled = edit.op("Mul", queries, edit.scalar("scale", scale, dtype), name="scaled")
    products = edit.op("MatMul", scaled, edit.op("Transpose", keys, perm=[0, 1, 3, 2], name="keys"), name="scores")
    scores = products
    if mask is not None:
        scores = edit.op("Add", scores, added_mask(edit, mask, dtype), name="masked")
    if node.attributes.get_int("is_causal", 0):
        earlier = causal_mask(edit, edit.op("Shape", products, start=2, name="sizes"), past[0])
        scores = edit.op("Add", scores, added_mask(edit, earlier, dtype), name="masked")
    context = edit.op("MatMul", softmax(edit, node, scores, dtype), values, name="context")
    if is_merged(node):
        merged = edit.op("Transpose", context, perm=[0, 2, 1, 3], name="tokens")
        context = edit.op("Reshape", merged, edit.shape("merged", [0, 0, -1]), name="joined")
    for old, new in zip(node.outputs[1:], present, strict=False):
        edit.replace(old, new)
    edit.replace(node.outputs[0], context)
    return ""


def _refusal(node: ir.Node) -> str:
    past = operands(node, 6)[_PAST]
    if (past[0] is None) != (past[1] is None) or operand(node, _LENGTHS) is not None:
        return "it has a cache that is filled in part"
    if any(map(is_read, node.outputs[3:])):
        return "it gives its scores"
    if node.attributes.get_float("softcap", 0.0):
        return "a cap on the scores is not spelled out"
    known = None not in node.inputs[:3] and ("scale" in node.attributes or head_size(node))
    if not (known and heads_of(node, 0) and heads_of(node, 1)):
        return "the number or size of its heads is not known"
    return ""


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
    least = float(kind.min)
    return edit.op("Where", mask, edit.scalar("none", 0.0, kind), edit.scalar("least", least, kind), name="mask")


def causal_mask(edit: Edit, sizes: ir.Value, past: ir.Value | None = None) -> ir.Value:
    """A mask that is true where a key does not come after the query, which stands behind the keys ``past``; ``sizes``
    are the numbers of queries and keys."""
    ones = edit.op("ConstantOfShape", sizes, value=ir.tensor([1.0], dtype=ir.DataType.FLOAT), name="ones")
    diagonal: list[ir.Value] = []
    if past is not None:
        tokens = edit.op("Shape", past, start=2, end=3, name="tokens")
        diagonal.append(edit.op("Squeeze", tokens, edit.shape("axis", [0]), name="diagonal"))
    earlier = edit.op(
        "Cast", edit.op("Trilu", ones, *diagonal, upper=0, name="lower"), to=ir.DataType.BOOL, name="earlier"
    )
    earlier.dtype = ir.DataType.BOOL
    return earlier


def softmax(edit: Edit, node: ir.Node, scores: ir.Value, kind: ir.DataType) -> ir.Value:
    """The softmax over the keys, in the precision that the attention asks for."""
    precision = ir.DataType(node.attributes.get_int("softmax_precision", kind.value))
    if precision == kind:
        return edit.op("Softmax", scores, axis=-1)
    wide = edit.op("Cast", scores, to=precision, name="wide")
    return edit.op("Cast", edit.op("Softmax", wide, axis=-1), to=kind, name="typed")
