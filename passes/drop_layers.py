"""Fewer layers than the model came with."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from bct_onnx.errors import UsageError
from bct_onnx.graph import before
from bct_onnx.graph.layers import Layer, layers
from bct_onnx.graph.neighbours import outputs_of


@dataclasses.dataclass(frozen=True)
class DropLayers(Pass):
    """Keep some layers of a transformer, and drop the others.

    Why:
        Beyond twenty times smaller, a third of the layers in 2 bits are worth more than all of them in less. What is
        left has to be trained: ``distill`` teaches it by the model with all its layers.

    Before/after:
        What went into a dropped layer goes into the next one; layers are found as the part of the graph that repeats.

    Declines:
        Models that do not repeat, or hand on more than one value from layer to layer, and layers that give an output of
        the model, such as keys and values to keep.

    Options:
        keep: Numbers of the layers that stay, from 0, joined by ``|``; without any all stay.

    Promise:
        None: the outputs are others until the model is trained.
    """

    name: ClassVar[str] = "drop-layers"
    stage: ClassVar[Stage] = Stage.TRIM
    promise: ClassVar[str] = "none"

    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not all(number.isdecimal() for number in self.keep):
            raise UsageError(f"keep={'|'.join(self.keep)} is not allowed", fix="give numbers of layers, as in 0|5")

    def apply(self, model: ir.Model) -> Applied:
        """Drop what is not kept.

        Raises:
            UsageError: There is no such layer.
        """
        if not self.keep:
            return Applied(model)
        found, name = layers(model.graph), model.graph.name or "graph"
        if not found:
            reason = "no part of it repeats and hands on a single value"
            return Applied(model, (), [Declined(name, reason)])
        kept = {int(number) for number in self.keep}
        if max(kept) >= len(found):
            fix = f"the model has layers 0 to {len(found) - 1}"
            raise UsageError(f"there is no layer {max(kept)} to keep", fix=fix)
        before.keep(model)
        outcomes: list[Site | Declined] = []
        standing: dict[ir.Value, ir.Value] = {}  # for what a dropped layer gave
        for number, layer in enumerate(found):
            if number not in kept:
                outcomes.append(_drop(number, layer, standing))
        RemoveUnusedNodesPass()(model)
        return Applied.of(model, outcomes)


def _drop(number: int, layer: Layer, standing: dict[ir.Value, ir.Value]) -> Site | Declined:
    """Let what goes into a layer go into what is behind it."""
    outputs = [value.name or "" for value in outputs_of(layer.nodes) if value.is_graph_output()]
    if outputs:
        return Declined(f"layer {number}", f"it gives {', '.join(outputs)}")
    standing[layer.leaving] = standing.get(layer.entering, layer.entering)
    layer.leaving.replace_all_uses_with(standing[layer.leaving])
    return Site(f"layer {number}", tuple(node.op_type for node in layer.nodes))
