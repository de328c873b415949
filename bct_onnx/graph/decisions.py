"""Whether a model hands out decisions: the best class, the names of the best, the boxes that are kept."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from bct_onnx.graph.tensors import FLOATS
from bct_onnx.quant import Scheme

DECIDING = ("ArgMax", "ArgMin", "TopK", "Hardmax", "NonMaxSuppression")
"""Operators whose results jump where two of their inputs are nearly alike."""

NO_WEIGHTS = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL, ir.DataType.STRING)

SMALL = 1 << 18
"""Values of all weights together. Below this 8 bits instead of 4 take 128 kB at most, and the noise of 4 bits, which
does no harm to scores, changes one decision in eight of a classifier of 64 classes."""


def scheme_for(model: ir.Model, scheme: Scheme) -> Scheme:
    """The block format of a model's weights: 8 bits where decisions would suffer from fewer and it costs next to
    nothing."""
    if scheme.bits >= 8 or not decides_and_is_small(model):
        return scheme
    return dataclasses.replace(scheme, bits=8, reduce_range=False)


def decides_and_is_small(model: ir.Model) -> bool:
    """Whether an output that is no fraction comes from `DECIDING`, in a model of less than `SMALL` weights."""
    if _weights(model) >= SMALL:
        return False
    decided: set[ir.Value | None] = set()
    for node in model.graph:
        if node.op_type in DECIDING or not decided.isdisjoint(node.inputs):
            decided.update(node.outputs)
    return any(value in decided and value.dtype not in FLOATS for value in model.graph.outputs)


def _weights(model: ir.Model) -> int:
    """Values of all weights; packed codes of a table that is quantized already are two to a byte."""
    count = 0
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.dtype not in NO_WEIGHTS:
                count += tensor.size * (2 if tensor.dtype == ir.DataType.UINT8 else 1)
    return count
