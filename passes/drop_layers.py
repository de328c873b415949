"""Fewer layers than the model came with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from bct_onnx.errors import UsageError
from bct_onnx.graph import before
from bct_onnx.graph.layers import Layer, bypass, layers
from bct_onnx.graph.neighbours import op_types
from bct_onnx.study.allocation import layer_noise
from bct_onnx.study.allocation.room import Room


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
        ratio: Instead, unless it is 0: so many stay as there is room for where the model shall become so many times
            smaller than fp32, tables made thin first. Those go whose absence makes least noise at the outputs.

    Promise:
        None: the outputs are others until the model is trained.
    """

    name: ClassVar[str] = "drop-layers"
    stage: ClassVar[Stage] = Stage.TRIM
    promise: ClassVar[str] = "none"

    keep: tuple[str, ...] = ()
    ratio: float = 0.0

    def __post_init__(self) -> None:
        if not all(map(str.isdecimal, self.keep)):
            raise UsageError(f"keep={'|'.join(self.keep)} is not allowed", fix="give numbers of layers, as in 0|5")
        if self.ratio < 0 or (self.ratio and self.keep):
            raise UsageError(f"{self} is not allowed", fix="give either layers to keep or a ratio, such as 50")

    def apply(self, model: ir.Model) -> Applied:
        """Drop what is not kept.

        Raises:
            UsageError: There is no such layer.
        """
        every, name = layers(model.graph), model.graph.name or "graph"
        if not (self.keep or self.ratio):
            return Applied(model)
        if not every:
            reason = "no part of it repeats and hands on a single value"
            return Applied(model, (), [Declined(name, reason)])
        if self.keep:
            going, why = self._others(every), ""
        else:
            going, why = self._least_missed(model, every)
        if not going:
            return Applied(model, note=why)
        before.keep(model, rebuilt=True)
        outcomes: list[Site | Declined] = []
        for number, note in sorted(going.items()):
            layer, title = every[number], f"layer {number}"
            if layer.gives:
                outcomes.append(Declined(title, f"it gives {', '.join(layer.gives)}"))
            else:
                outcomes.append(Site(title, op_types(layer.nodes), note))
        bypass(every, [number for number in going if not every[number].gives])
        RemoveUnusedNodesPass()(model)
        applied = Applied.of(model, outcomes)
        applied.note = why
        return applied

    def _others(self, every: Sequence[Layer]) -> dict[int, str]:
        """The layers that are not kept.

        Raises:
            UsageError: There is no such layer.
        """
        kept = set(map(int, self.keep))
        if max(kept) >= len(every):
            fix = f"the model has layers 0 to {len(every) - 1}"
            raise UsageError(f"there is no layer {max(kept)} to keep", fix=fix)
        return dict.fromkeys(set(range(len(every))) - kept, "")

    def _least_missed(self, model: ir.Model, every: Sequence[Layer]) -> tuple[dict[int, str], str]:
        """The layers that there is no room for, each with the noise without it; and why."""
        plan = Room.of(model, every, self.ratio).plan()
        missed = layer_noise.least_missed(model, len(every) - plan.layers) if plan.layers < len(every) else []
        going = {number: f"noise over signal without it {noise:.3g}" for number, noise in missed}
        stay = ", ".join(map(str, sorted(set(range(len(every))) - going.keys())))
        return going, f"{plan.why}; layers that stay: {stay}" if going else plan.why
