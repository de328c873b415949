"""Sizes of caches that a model leaves free and its attention does not: heads and channels of each head.

The builder of onnxruntime-genai declares ``[batch, heads, past_sequence_length, kv_cache_dim]``; any other size of the
last axis than that of the heads is refused when the model runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from bct_onnx.runtime.inputs import Input

Known = Mapping[str, Mapping[int, int]]
"""By input the sizes of some of its axes."""

_PAST = {"GroupQueryAttention": (3, 4), "MultiHeadAttention": (6, 7)}


def known(model: ir.Model) -> Known:
    """Heads and their channels of the caches that attention operators of ONNX Runtime read."""
    found: dict[str, dict[int, int]] = {}
    for node in model.graph.all_nodes():
        sizes = _of_heads(node) if node.domain == "com.microsoft" and node.op_type in _PAST else None
        for index in _PAST.get(node.op_type, ()) if sizes is not None else ():
            value = node.inputs[index] if index < len(node.inputs) else None
            if value is not None and value.is_graph_input() and value.name and sizes is not None:
                found[value.name] = {1: sizes[0], 3: sizes[1]}
    return found


def sized(inputs: Sequence[Input], sizes: Known) -> list[Input]:
    """The same inputs, with those sizes where they left them free."""
    return [
        dataclasses.replace(one, shape=tuple(_size(axis, dim, sizes[one.name]) for axis, dim in enumerate(one.shape)))
        if one.name in sizes and len(one.shape) == 4
        else one
        for one in inputs
    ]


def _size(axis: int, dim: int | str | None, sizes: Mapping[int, int]) -> int | str | None:
    return dim if isinstance(dim, int) else sizes.get(axis, dim)


def _of_heads(node: ir.Node) -> tuple[int, int] | None:
    """Heads of keys, and channels of each; queries may be packed with keys and values."""
    heads = node.attributes.get_int("num_heads", 0)
    shared = node.attributes.get_int("kv_num_heads", heads)
    width = _width(node.inputs[0])
    packed = len(node.inputs) < 2 or node.inputs[1] is None
    parts = heads + 2 * shared if packed else heads
    return (shared, width // parts) if width and parts and width % parts == 0 else None


def _width(value: ir.Value | None) -> int:
    """The size of the last axis, looked up at the weight that makes it where it is not declared; 0 if it is nowhere."""
    last = value.shape[-1] if value is not None and value.shape is not None and len(value.shape) else None
    if isinstance(last, int):
        return last
    node = value.producer() if value is not None else None
    if node is None or node.op_type not in ("MatMul", "Add"):
        return 0
    return max((_width(one) for one in node.inputs[1:] if one is not None), default=0) or _width(node.inputs[0])
