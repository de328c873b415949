"""Sizes of caches that a model leaves free and its attention does not: heads and channels of each head.

The builder of onnxruntime-genai declares ``[batch, heads, past_sequence_length, kv_cache_dim]``; any other size of the
last axis than that of the heads is refused when the model runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from bct_onnx.graph.known import size_of
from bct_onnx.graph.neighbours import operand, producer
from bct_onnx.runtime.inputs import Input

Known = Mapping[str, Mapping[int, int]]
"""By input the sizes of some of its axes."""

_PAST = {"GroupQueryAttention": (3, 4), "MultiHeadAttention": (6, 7)}


def known(model: ir.Model) -> Known:
    """Heads and their channels of the caches that attention operators of ONNX Runtime read."""
    sizes_of: dict[str, dict[int, int]] = {}
    for node in model.graph.all_nodes():
        if node.domain != "com.microsoft" or node.op_type not in _PAST:
            continue
        sizes = _of_heads(node)
        if sizes is None:
            continue
        for index in _PAST[node.op_type]:
            cache = operand(node, index)
            if cache is not None and cache.is_graph_input() and cache.name:
                sizes_of[cache.name] = {1: sizes[0], 3: sizes[1]}
    return sizes_of


def sized(inputs: Sequence[Input], sizes: Known) -> list[Input]:
    """The same inputs, with those sizes where they left them free."""
    return [_with_sizes(declared, sizes.get(declared.name, {})) for declared in inputs]


def _with_sizes(declared: Input, sizes: Mapping[int, int]) -> Input:
    if len(declared.shape) != 4:
        return declared
    shape = (dim if isinstance(dim, int) else sizes.get(axis, dim) for axis, dim in enumerate(declared.shape))
    return dataclasses.replace(declared, shape=tuple(shape))


def _of_heads(node: ir.Node) -> tuple[int, int] | None:
    """Heads of keys, and channels of each; queries may be packed with keys and values."""
    heads = node.attributes.get_int("num_heads", 0)
    shared = node.attributes.get_int("kv_num_heads", heads)
    width = _width(node.inputs[0])
    packed = len(node.inputs) < 2 or node.inputs[1] is None
    parts = heads + 2 * shared if packed else heads
    if width and parts and width % parts == 0:
        return (shared, width // parts)
    return None


def _width(value: ir.Value | None) -> int:
    """The size of the last axis, looked up at the weight that makes it where it is not declared; 0 if it is nowhere."""
    size = size_of(value, -1)
    if size is not None:
        return size
    node = producer(value)
    if node is None or node.op_type not in ("MatMul", "Add"):
        return 0
    return max(map(_width, node.inputs[1:]), default=0) or _width(node.inputs[0])
