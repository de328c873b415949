"""Normalizations with one number for all channels, as ONNX allows: ONNX Runtime's fusions take one per channel.

A bias of no numbers, which the runtime's own operator takes for none, ends in those fusions too.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bct_onnx.graph import tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.known import is_last_axis, size_of

_BIAS = 2
"""The place of the bias among the inputs of `LayerNormalization`."""

NORMALIZATIONS = ("LayerNormalization", "RMSNormalization")


def spread(model: ir.Model) -> int:
    """Give normalizations of the last axis a scale and a bias for each channel; how many of these were one number, or
    none.

    Shapes are inferred already.
    """
    changed = 0
    for node in list(model.graph.all_nodes()):
        channels = _channels(node)
        if channels is None:
            continue
        for index, value in enumerate(node.inputs):
            if not index or value is None or value.const_value is None:
                continue
            if value.const_value.size == 1:
                numbers = np.repeat(tensors.array(value).reshape(1), channels)
                node.replace_input_with(index, Edit(node).constant(value.name or "parameter", numbers))
                changed += 1
            elif index == _BIAS and value.const_value.size == 0:
                node.resize_inputs(_BIAS)
                changed += 1
    return changed


def _channels(node: ir.Node) -> int | None:
    """How many channels a normalization of the last axis has; None for other nodes, and where that is not known."""
    if node.domain or node.op_type not in NORMALIZATIONS:
        return None
    size = size_of(node.inputs[0], -1)
    if size is None or size <= 1 or not is_last_axis(node.attributes.get_int("axis", -1), node.inputs[0]):
        return None
    return size
