"""The smallest model that is good enough: plans for ever nearer sizes, each rewritten and scored on labelled data."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from bct_onnx import registry
from bct_onnx.errors import GateError
from bct_onnx.graph.atomic import scratch
from bct_onnx.graph.load import load
from bct_onnx.pipeline import Pipeline
from bct_onnx.planning.measure import measure
from bct_onnx.planning.plan import Plan, planned
from bct_onnx.progress import Progress
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.yardstick import Figures, Measuring, Yardstick

TRIES = 6
"""Halvings of the range of sizes, which is a factor of four or so: 2 % are left of it."""


@dataclasses.dataclass(frozen=True)
class Try:
    """A plan and what became of it.

    Attributes:
        plan: With predicted figures.
        ratio: Times smaller than fp32 by parameters, as it came out.
        figures: Score and distance from the model as it came.
    """

    plan: Plan
    ratio: float
    figures: Figures

    @property
    def drop(self) -> float:
        """How much worse the score is; infinite where it is no number."""
        drop = self.figures.drop
        return math.inf if drop is None or math.isnan(drop) else drop


def smallest(
    source: Path,
    pipeline: Pipeline,
    target: str,
    measuring: Measuring,
    max_drop: float,
    *,
    progress: Progress = lambda label, done, total: None,
    cache: Path | None = None,
) -> list[Try]:
    """Bisect the size of the model; the last of the tries returned is the smallest that is good enough.

    A score does not fall evenly with the size, so another that is good enough may be smaller still.

    Args:
        source: The float model.
        pipeline: What to run, without formats; with its calibration data.
        target: The runtime to lower for.
        measuring: The task and its labelled data: not what will be reported.
        max_drop: Points of the task's first score, or percent of a perplexity, that may be lost.
        progress: Told what is being done.
        cache: Folder where measurements are kept; None keeps nothing.

    Raises:
        GateError: The largest plan loses more; or as `bct_onnx.planning.plan`.
    """
    measured = measure(source, registry.complete(pipeline, target), progress, folder=cache)
    yardstick = Yardstick(source, load(source), measuring, progress)
    below, most = measured.reachable
    above, tries = most, list[Try]()
    for number in range(TRIES + 1):
        good = [one for one in tries if one.drop <= max_drop]
        if number == TRIES and good:
            break
        total = most if number == TRIES else int(math.sqrt(below * above))
        progress(f"trying {measured.ratio(total):.2f}x", number, TRIES)
        one = planned(source, pipeline, target, measured, total - measured.fixed_bits)
        tries.append(_tried(one, yardstick, progress))
        below, above = (below, total) if tries[-1].drop <= max_drop else (total, above)
    return _sorted(tries, max_drop, yardstick)


def _tried(one: Plan, yardstick: Yardstick, progress: Progress) -> Try:
    with scratch("plan") as folder:
        file = folder / "model.onnx"
        options = Options(output=file, check=False, progress=progress)
        report = rewrite(one.source, one.passes(), target=one.target, options=options)
        return Try(one, report.after.ratio_parameters, yardstick.measure({"try": file})["try"])


def _sorted(tries: list[Try], max_drop: float, yardstick: Yardstick) -> list[Try]:
    """Those that lose too much, then the others by size."""
    tries = sorted(tries, key=lambda one: (one.drop <= max_drop, one.ratio))
    best = tries[-1]
    if best.drop > max_drop:
        unit = yardstick.drop_unit
        raise GateError(
            f"no plan loses at most {max_drop:g} {unit}",
            why=f"the largest, {best.ratio:.2f}x smaller, loses {best.drop:.2f} {unit}",
            fix="allow more with --max-drop, or keep more in float with another preset",
        )
    return tries
