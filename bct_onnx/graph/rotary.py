"""RotaryEmbedding as exporters write it and as it is defined.

The operator wants cosines and sines for each text of a batch, [B, S, D / 2]. PyTorch's exporter gives it one row of
them for all, [1, S, D / 2], with which ONNX Runtime runs a single text and no more.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from bct_onnx.graph.edit import Edit
from bct_onnx.graph.neighbours import operand


def for_every_text(model: ir.Model) -> int:
    """Repeat cosines and sines of one row for each text of what they rotate; with one text nothing changes.

    Shapes have to be known: call this after inference, and infer again if anything was done.

    Returns:
        How many operators got others.
    """
    repeated: dict[tuple[ir.Value, str], ir.Value] = {}
    changed = 0
    for graph in (model.graph, *model.graph.subgraphs()):
        for node in list(graph):
            if node.op_identifier() == ("", "RotaryEmbedding", "") and _is_one_row(node):
                for place, cache in list(_caches(node)):
                    node.replace_input_with(place, _repeated(node, cache, repeated))
                changed += 1
    return changed


def _caches(node: ir.Node) -> Iterator[tuple[int, ir.Value]]:
    return ((place, value) for place, value in enumerate(node.inputs[:3]) if place and value is not None)


def _is_one_row(node: ir.Node) -> bool:
    """Whether it has cosines and sines for one text only, and may be given more texts."""
    x = node.inputs[0]
    if operand(node, 3) is not None or x is None or not x.shape or x.shape[0] == 1:
        return False
    shapes = [value.shape for _, value in _caches(node)]
    return len(shapes) == 2 and all(shape is not None and shape.rank() == 3 and shape[0] == 1 for shape in shapes)


def _repeated(node: ir.Node, cache: ir.Value, known: dict[tuple[ir.Value, str], ir.Value]) -> ir.Value:
    """As often as there are texts; what has a batch of the same name shares one."""
    x = node.inputs[0]
    assert x is not None and x.shape is not None and node.graph is not None
    batch = x.shape[0]
    name = batch.value if isinstance(batch, ir.SymbolicDim) else str(batch)
    key = cache, f"{id(node.graph)}:{name or id(x)}"
    if key not in known:
        edit = Edit(node)
        texts = edit.op("Shape", x, start=0, end=1, name="texts")
        rest = edit.constant("of_each_text", np.array([1, 1], np.int64))
        shape = edit.op("Concat", texts, rest, axis=0, name="times")
        known[key] = edit.op("Expand", cache, shape, name=cache.name or "cache")
    return known[key]
