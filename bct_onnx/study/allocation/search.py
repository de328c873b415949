"""The smallest model that is good enough: ever nearer sizes, each stored and scored on labelled data."""

from __future__ import annotations

import dataclasses
import math

from bct_onnx.errors import GateError
from bct_onnx.pipeline import Pipeline, split
from bct_onnx.study.allocation import data, noise_table
from bct_onnx.study.allocation.allocation import Allocation, allocate
from bct_onnx.study.candidates import Study
from bct_onnx.study.comparison import Comparison, Figures

TRIES = 6
"""Halvings of the range of sizes, which is a factor of four or so: 2 % are left of it."""

SEQUENCES = 64
"""Sequences that outputs are compared on where there is no task."""


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
        if drop is None or math.isnan(drop):
            return math.inf
        return drop


@dataclasses.dataclass(frozen=True)
class Floor:
    """What a result has to keep.

    Attributes:
        drop: Points of the task's first score, or percent of a perplexity, that it may lose.
        sqnr_db: How far its outputs have to be from the noise.
    """

    drop: float = math.inf
    sqnr_db: float = -math.inf

    def holds(self, tried: Try) -> bool:
        """Whether a try is good enough."""
        has_score = tried.drop <= self.drop or math.isinf(self.drop)
        return has_score and tried.figures.sqnr_db >= self.sqnr_db


def smallest(study: Study, pipeline: Pipeline, floor: Floor) -> list[Try]:
    """Bisect the size of the model; the last of the tries returned is the smallest that is good enough.

    The model is loaded, prepared and measured once; a try stores and lowers it. A score does not fall evenly with the
    size, so another that is good enough may be smaller still. Without a task, outputs are compared on rows of the
    calibration data that noise is measured on, which calibrate has left out; on random tokens without data.

    Args:
        study: The model, and the labelled data if any: not what will be reported.
        pipeline: What to run, with its calibration data.
        floor: What is good enough.

    Raises:
        GateError: The largest model loses more; or as `bct_onnx.study.allocation.noise_table.measured`.
    """
    exact, storing = split(study.without_lowering(pipeline))
    prepared = study.prepared(exact)
    table = noise_table.measured(prepared, study.course((*exact, *storing), len(exact) - 1))
    if study.comparison.measuring.task is None:
        rows = data.read(prepared, SEQUENCES)
        study.comparison.compare_on(rows.batches, rows.source)
    below, most = table.reachable
    above, tries = most, list[Try]()
    for number in range(TRIES + 1):
        if number == TRIES and any(map(floor.holds, tries)):
            break
        total = most if number == TRIES else int(math.sqrt(below * above))
        study.progress(f"trying {table.ratio(total):.2f}x", number, TRIES)
        allocation = allocate(table, total)
        model = study.prepared(exact)
        allocation.leave(model)
        for candidate, figures in study.measured([study.build("try", model, storing)]):
            tries.append(Try(allocation, candidate.inventory.ratio_parameters, figures))
        if floor.holds(tries[-1]):
            above = total
        else:
            below = total
    return _sorted(tries, floor, study.comparison)


def _sorted(tries: list[Try], floor: Floor, comparison: Comparison) -> list[Try]:
    """Those that lose too much, then the others by size."""
    tries = sorted(tries, key=lambda each: (floor.holds(each), each.ratio))
    best = tries[-1]
    if floor.holds(best):
        return tries
    where = "'bct-onnx study --by pass' tells where it is lost"
    if math.isinf(floor.drop):
        what = f"no size is {floor.sqnr_db:g} dB from the model as it came"
        why = f"the largest, {best.ratio:.2f}x smaller, is {best.figures.sqnr_db:.1f} dB from it"
        raise GateError(what, why=why, fix=f"ask for less, or keep more in float with another preset; {where}")
    unit = comparison.drop_unit
    raise GateError(
        f"no size loses at most {floor.drop:g} {unit}",
        why=f"the largest, {best.ratio:.2f}x smaller, loses {best.drop:.2f} {unit}",
        fix=f"allow more with --max-drop, or keep more in float with another preset; {where}",
    )
