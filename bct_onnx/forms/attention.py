"""A standard ``Attention`` and its heads."""

from __future__ import annotations

import onnx_ir as ir

from bct_onnx.graph.edit import Edit
from bct_onnx.graph.known import size_of


def is_merged(node: ir.Node) -> bool:
    """Whether heads stand beside each other in the last axis."""
    return "q_num_heads" in node.attributes


def heads_of(node: ir.Node, index: int) -> int | None:
    """Number of heads of the queries (0) or of keys and values (1, 2)."""
    if is_merged(node):
        return node.attributes.get_int("kv_num_heads" if index else "q_num_heads", 0) or None
    return size_of(node.inputs[index], 1, rank=4)


def width_of(node: ir.Node, index: int) -> int:
    """Length of the last axis of queries, keys or values; 0 where it is not known."""
    return size_of(node.inputs[index], -1) or 0


def head_size(node: ir.Node) -> int:
    """Length of a head of the queries; 0 where it is not known."""
    return width_of(node, 0) // ((heads_of(node, 0) or 1) if is_merged(node) else 1)


def groups_of(node: ir.Node) -> int:
    """Number of heads of the queries that share one of keys and values."""
    return (heads_of(node, 0) or 1) // (heads_of(node, 1) or 1)


def split_heads(edit: Edit, node: ir.Node, value: ir.Value, index: int) -> ir.Value:
    """Codes of queries (0), keys (1) or values (2) as [batch, heads of the queries, sequence, size]."""
    if is_merged(node):
        heads = heads_of(node, index) or 1
        shape = edit.shape("heads", [0, 0, heads, width_of(node, index) // heads])
        value = edit.op("Transpose", edit.op("Reshape", value, shape, name="heads"), perm=[0, 2, 1, 3], name="by_head")
    groups = groups_of(node)
    if index and groups != 1:
        return _repeated(edit, value, groups)
    return value


def join_heads(edit: Edit, node: ir.Node, context: ir.Value) -> ir.Value:
    """The result [batch, heads, sequence, size] as ``node`` gives it."""
    if not is_merged(node):
        return context
    rows = edit.op("Transpose", context, perm=[0, 2, 1, 3], name="tokens")
    return edit.op("Reshape", rows, edit.shape("merged", [0, 0, width_of(node, 2) * groups_of(node)]), name="merged")


def _repeated(edit: Edit, value: ir.Value, groups: int) -> ir.Value:
    """Each head of [B, H, S, D] ``groups`` times in a row."""
    wide = edit.op("Unsqueeze", value, edit.shape("axis", [2]), name="grouped")
    many = edit.op("Expand", wide, edit.shape("groups", [1, 1, groups, 1, 1]), name="repeated")
    heads = edit.op("Shape", value, start=0, end=1, name="batch")
    shape = edit.op("Concat", heads, edit.shape("all", [-1]), edit.op("Shape", value, start=2, end=4), axis=0)
    return edit.op("Reshape", many, shape, name="queries_heads")
