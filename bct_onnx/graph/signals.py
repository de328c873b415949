"""Which values are computed from signals: pictures, sound, features, embeddings.

Random tokens are tokens: every row of a table is one that text picks too, and the ranges behind it were measured to
hold. Random pictures are none: what a trained model does with noise says little about what it does with real data.
Of a small model that hands out decisions every value counts as one: where its weights keep 8 bits, ranges that nearly
hold are what changes its decisions.
"""

from __future__ import annotations

import re

import onnx_ir as ir

from bct_onnx.graph import operators
from bct_onnx.graph.decisions import decides_and_is_small
from bct_onnx.graph.neighbours import outputs_of, read_by

BYTES = (ir.DataType.UINT8, ir.DataType.INT8, ir.DataType.UINT16, ir.DataType.INT16)

OTHERS = re.compile(r"mask|bias|past|cache|\bpkv|use_cache")
"""Names of floating-point inputs that are no content: masks, and caches, which begin empty."""

TOLD_BY_TYPE = operators.named("shape") | {"Range", "NonZero", "OneHot", "ArgMax", "ArgMin"}
"""Operators whose results do not tell how large the numbers are that go in."""


def signals(model: ir.Model) -> set[ir.Value]:
    """Floats of the main graph that depend on an input of floats, or of integers of 8 or 16 bits.

    Masks and caches are told by their names. What is true or false of a signal is none itself.
    """
    if decides_and_is_small(model):
        return set(outputs_of(model.graph))
    carried = set(filter(_is_signal, model.graph.inputs))
    for node in model.graph:
        if node.op_type not in TOLD_BY_TYPE and not carried.isdisjoint(read_by(node)):
            carried.update(value for value in node.outputs if value.dtype != ir.DataType.BOOL)
    return carried


def _is_signal(value: ir.Value) -> bool:
    if value.is_initializer() or value.dtype is None:
        return False
    is_number = value.dtype.is_floating_point() or (value.dtype in BYTES and value.shape is not None)
    return is_number and OTHERS.search((value.name or "").lower()) is None
