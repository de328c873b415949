"""The smallest model that is good enough: ever nearer sizes, each stored and scored on labelled data."""

from __future__ import annotations

import dataclasses
import math

from bct_onnx.errors import GateError
from bct_onnx.pipeline import Pipeline, split
from bct_onnx.study.allocation import noise_table
from bct_onnx.study.allocation.allocation import Allocation, allocate
from bct_onnx.study.candidates import Study
from bct_onnx.study.reference import Figures, Reference

TRIES = 6
"""Halvings of the range of sizes, which is a factor of four or so: 2 % are left of it."""


@dataclasses.dataclass(frozen=True)
class Try:
    """An allocation and what became of it.

    Attributes:
        allocation: With predicted figures.
        ratio: Times smaller than fp32 by parameters, as it came out.
        figures: Score and distance from the model as it came.
    """

    allocation: Allocation
    ratio: float
    figures: Figures

    @property
    def drop(self) -> float:
        """How much worse the score is; infinite where it is no number."""
        drop = self.figures.drop
        return math.inf if drop is None or math.isnan(drop) else drop


def smallest(study: Study, pipeline: Pipeline, max_drop: float) -> list[Try]:
    """Bisect the size of the model; the last of the tries returned is the smallest that is good enough.

    The model is loaded, prepared and measured once; a try stores and lowers it. A score does not fall evenly with the
    size, so another that is good enough may be smaller still.

    Args:
        study: The model, and the labelled data: not what will be reported.
        pipeline: What to run, with its calibration data.
        max_drop: Points of the task's first score, or percent of a perplexity, that may be lost.

    Raises:
        GateError: The largest model loses more; or as `bct_onnx.study.allocation.noise_table.measured`.
    """
    exact, storing = split(study.without_lowering(pipeline))
    prepared = study.prepared(exact)
    table = noise_table.measured(prepared, study.course((*exact, *storing), len(exact) - 1))
    below, most = table.reachable
    above, tries = most, list[Try]()
    for number in range(TRIES + 1):
        if number == TRIES and any(each.drop <= max_drop for each in tries):
            break
        total = most if number == TRIES else int(math.sqrt(below * above))
        study.progress(f"trying {table.ratio(total):.2f}x", number, TRIES)
        allocation = allocate(table, total)
        model = study.prepared(exact)
        allocation.leave(model)
        for candidate, figures in study.measured([study.build("try", model, storing)]):
            tries.append(Try(allocation, candidate.inventory.ratio_parameters, figures))
        if tries[-1].drop <= max_drop:
            above = total
        else:
            below = total
    return _sorted(tries, max_drop, study.reference)


def _sorted(tries: list[Try], max_drop: float, reference: Reference) -> list[Try]:
    """Those that lose too much, then the others by size."""
    tries = sorted(tries, key=lambda each: (each.drop <= max_drop, each.ratio))
    best = tries[-1]
    if best.drop > max_drop:
        unit = reference.drop_unit
        raise GateError(
            f"no size loses at most {max_drop:g} {unit}",
            why=f"the largest, {best.ratio:.2f}x smaller, loses {best.drop:.2f} {unit}",
            fix="allow more with --max-drop, or keep more in float with another preset",
        )
    return tries
