"""Whether a model hands out decisions: the best class, the names of the best, the boxes that are kept."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from bct_onnx.graph import operators
from bct_onnx.graph.tensors import FLOATS
from bct_onnx.quant import Scheme

NO_WEIGHTS = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL, ir.DataType.STRING)

SMALL = 1 << 18
"""Values of all weights together; below this 8 bits instead of 4 take 128 kB at most.

Noise that does no harm to scores changes decisions. Equal ones in percent, with 4 bits, with 8 in the layer before the
decision alone, and with 8 throughout: 87.7, 89.9 and 98.9 (a random perceptron of 64 classes, 25,000 weights); 80.5,
83.6 and 97.8 (a random tagger, two layers of 64, 40 classes); 99.3, 99.4 and 99.9 (a trained perceptron of 32 classes,
right in 90). The noise comes from all layers, so that the last one alone is no way out; large models have more to lose.
"""


def scheme_for(model: ir.Model, scheme: Scheme) -> tuple[Scheme, str]:
    """The block format of a model's weights, and what to say about it.

    It has 8 bits where decisions would suffer from fewer and it costs next to nothing, and all of their range.
    """
    if not decides_and_is_small(model):
        return scheme, ""
    if scheme.bits >= 8:
        return dataclasses.replace(scheme, reduce_range=False), ""
    note = (
        f"8 bits rather than {scheme.bits}: the model hands out decisions, which noise changes, and is small; "
        f"option formats={scheme.bits}/{scheme.block_shape[0]}:* gives {scheme.bits}"
    )
    return dataclasses.replace(scheme, bits=8, reduce_range=False), note


def decides_and_is_small(model: ir.Model) -> bool:
    """Whether an output that is no fraction comes from a decision, in a model of less than `SMALL` weights."""
    if _weights(model) >= SMALL:
        return False
    decided: set[ir.Value | None] = set()
    for node in model.graph:
        if operators.kind(node) == "decision" or not decided.isdisjoint(node.inputs):
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
