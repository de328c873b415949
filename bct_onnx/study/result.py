"""What a study has found, as data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from bct_onnx.base import Declined
from bct_onnx.figures import finite, finite_of, finite_values
from bct_onnx.runtime.latency import cpu_features
from bct_onnx.study.candidates import Candidate, Ran
from bct_onnx.study.comparison import Comparison, Figures


@dataclasses.dataclass(frozen=True)
class Weight:
    """What is known of a quantized tensor by itself.

    Attributes:
        shape: Of the tensor as the model stores it.
        used_by: Name of a node that uses it.
        bits: Stored bits per value, scales and all.
        sqnr_db: Squared norm of the tensor over its squared error, in dB.
        weighted_db: Likewise of what it makes of the activations that were measured: ``|XW|²`` over ``|X(W - Ŵ)|²``;
            the same as `sqnr_db` where none were, and for tables that are looked up.
    """

    shape: tuple[int, ...]
    used_by: str
    bits: float
    sqnr_db: float
    weighted_db: float


@dataclasses.dataclass(frozen=True)
class Row:
    """One candidate.

    Attributes:
        name: Of the ingredient, pass or tensor.
        text: Pipeline text of what was done (without the lowering); for a tensor, what it was stored as.
        places: How many places were changed.
        changed: The same by pass.
        declined: Places that stayed as they were, and why.
        ratio: Times smaller than fp32 by parameters, everything counted.
        figures: Against the model as it came; None for a tensor whose effect was not measured.
        share: Part of the whole error that this pass has added to those before it, by `Figures.noise`; passes only.
        weight: Tensors only.
    """

    name: str
    text: str
    places: int
    changed: dict[str, int]
    declined: tuple[Declined, ...]
    ratio: float
    figures: Figures | None
    share: float | None = None
    weight: Weight | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        figures: dict[str, Any] = {"name": self.name, "text": self.text, "places": self.places, "changed": self.changed}
        figures["stayed_float"] = [{"name": declined.name, "reason": declined.reason} for declined in self.declined]
        figures["ratio"] = self.ratio
        if self.weight is not None:
            figures["weight"] = dataclasses.asdict(self.weight) | finite_of(self.weight, "sqnr_db", "weighted_db")
        if self.share is not None:
            figures["share"] = finite(self.share)
        return figures | (dict.fromkeys(_FIGURES) if self.figures is None else self.figures.as_dict())


_FIGURES = tuple(Figures(math.inf).as_dict())


def row_of(candidate: Candidate, figures: Figures, at_work: Sequence[Ran], share: float | None = None) -> Row:
    """The row of a candidate; the places of the passes ``at_work`` count."""
    declined: list[Declined] = []
    for ran in at_work:
        declined += ran.declined
    text = ",".join(str(ran.graph_pass) for ran in candidate.ran)
    changed = {ran.graph_pass.name: len(ran.sites) for ran in candidate.ran}
    places = sum(len(ran.sites) for ran in at_work)
    ratio = candidate.inventory.ratio_parameters
    return Row(candidate.name, text, places, changed, tuple(declined), ratio, figures, share)


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """The answer of one study: a row per candidate.

    Attributes:
        by: ingredient, pass or tensor.
        target: The runtime every candidate was lowered for.
        rows: In running order; tensors the worst first.
        left_out: Ingredients that have no place in this model, and why.
        comparison: What they were measured with.
    """

    by: str
    target: str
    rows: tuple[Row, ...]
    left_out: tuple[tuple[str, str], ...]
    comparison: Comparison

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        with_, cpu = self.comparison.measuring, cpu_features()
        return {
            "by": self.by,
            "target": self.target,
            "task": with_.name or None,
            "data": self.comparison.source,
            "sequences": None if with_.task is None else len(with_.task.tokens.ids),
            "metric": next(iter(self.comparison.scores), None),
            "drop_unit": self.comparison.drop_unit if with_.task is not None else None,
            "reference": finite_values(self.comparison.scores),
            "shape": self.comparison.timed_shape,
            "rounds": with_.rounds,
            "threads": with_.threads,
            "cpu": {"architecture": cpu.architecture, "model": cpu.model, "int8": cpu.int8},
            "rows": list(map(Row.as_dict, self.rows)),
            "left_out": [{"name": name, "reason": reason} for name, reason in self.left_out],
        }
