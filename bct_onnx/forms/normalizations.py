"""Normalizations over the last axis that are written out in means, squares and a square root."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bct_onnx.base import Declined, Outcome, Site
from bct_onnx.graph import opset
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.known import rank_of, size_of
from bct_onnx.graph.recognise import Norm, Region, norm, parameter

_CONSTANTS = {"LayerNormalization": "layer_norm", "RMSNormalization": "rms_norm"}
"""How the names of their scales and biases begin."""


class Normalizations:
    """Writes the operator in place of each region around a ``ReduceMean`` that behaves as one kind of normalization.

    Args:
        model: Its opset may lack the operator.
        kind: LayerNormalization or RMSNormalization.
    """

    def __init__(self, model: ir.Model, kind: str) -> None:
        self._kind = kind
        self._lacking = opset.lacks(model, kind)
        self._declined: set[ir.Value] = set()

    def __call__(self, node: ir.Node) -> Outcome:
        """Fuse the region around one ``ReduceMean``, or say why it stays: once, though it has two of them."""
        candidate = norm(node, self._kind)
        if candidate is None:
            return None
        if not candidate.exact or candidate.trouble:
            if (apart := _kept_apart(candidate.region, self._kind)) is not None:
                return apart
        elif not self._lacking:
            return _fused(candidate)
        output = candidate.region.output
        if output in self._declined:
            return None
        self._declined.add(output)
        return Declined(output.name or self._kind, self._lacking or candidate.refusal)


def _fused(candidate: Norm) -> Site:
    region, name = candidate.region, _CONSTANTS[candidate.kind]
    edit = Edit(region.nodes[-1])
    scale = parameter(edit, region, f"{name}_scale", candidate.scale)
    bias = [parameter(edit, region, f"{name}_bias", candidate.bias)] if np.any(candidate.bias) else []
    y = edit.op(candidate.kind, region.inputs[0], scale, *bias, axis=-1, epsilon=candidate.epsilon, stash_type=1)
    edit.replace(region.output, y, also=region.nodes[:-1])
    return Site(edit.made[-1].name or "", region.spelling, f"epsilon {candidate.epsilon:.3g}")


def _kept_apart(region: Region, kind: str) -> Site | None:
    """Widen one column by an ``Expand`` where a scale or a bias would; None where none does.

    ONNX Runtime takes such nodes for the operator as well, whose scale may not widen, and then cannot run them.
    """
    for node in region.nodes:
        for index, value in enumerate(node.inputs):
            widths = {width for other in node.inputs if other in region.constants and (width := _columns(other)) != 1}
            if value is None or value in region.constants or _columns(value) != 1 or len(widths) != 1:
                continue
            edit = Edit(node)
            wide = edit.op("Expand", value, edit.shape("widened", [widths.pop()]))
            wide.type = value.type
            node.replace_input_with(index, wide)
            return Site(node.name or "", (node.op_type,), f"widens one column: expanded before, so no {kind}")
    return None


def _columns(value: ir.Value | None) -> int:
    """The size of the last dimension; 0 if it is unknown, 1 for a single number."""
    if rank_of(value) == 0:
        return 1
    return size_of(value, -1) or 0
