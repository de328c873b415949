"""What each pass of a pipeline adds to the error of those before it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from bct_onnx.errors import GateError
from bct_onnx.pipeline import Pipeline, split
from bct_onnx.study.candidates import Candidate, Study, run_pass
from bct_onnx.study.reference import Figures
from bct_onnx.study.result import Row, Sensitivity


def by_pass(study: Study, pipeline: Pipeline) -> Sensitivity:
    """Run a pipeline once and measure the model after every pass that may move the outputs and has changed something.

    The first row is the model after the exact passes at the beginning. Each stage is lowered on its own, so that it
    runs as it would if the pipeline ended there.

    Args:
        study: The model and how to measure.
        pipeline: What to run; the target's lowering is left out of the stages.

    Raises:
        GateError: No pass changes anything but by float rounding.
    """
    stages = list(study.measured(_built(study, pipeline)))
    if len(stages) < 2:
        why = "no pass of the pipeline changes the outputs of this model"
        raise GateError("there is nothing to measure", where=str(study.source), why=why)
    whole = stages[-1][1].noise
    before = [0.0, *(figures.noise for _, figures in stages)]
    rows = [
        _row(candidate, figures, (figures.noise - noise) / whole if whole else math.nan)
        for (candidate, figures), noise in zip(stages, before, strict=False)
    ]
    return Sensitivity("pass", study.target, tuple(rows), (), study.reference)


def _built(study: Study, pipeline: Pipeline) -> Iterator[Candidate]:
    exact, rest = split(study.without_lowering(pipeline))
    model = study.prepared(exact)
    study.progress("exact passes", 0, len(rest))
    yield study.build("exact passes", model.clone())
    for number, one in enumerate(rest):
        study.progress(one.name, number, len(rest))
        ran = run_pass(one, model)
        if ran.is_lossy and ran.sites:
            again = sum(before.name == one.name for before in rest[:number])
            name = f"{one.name} ({again + 1})" if again else one.name
            yield dataclasses.replace(study.build(name, model.clone()), ran=(ran,))


def _row(candidate: Candidate, figures: Figures, share: float) -> Row:
    return Row(
        candidate.name,
        ",".join(str(ran.one) for ran in candidate.ran),
        sum(len(ran.sites) for ran in candidate.ran),
        {ran.one.name: len(ran.sites) for ran in candidate.ran},
        tuple(one for ran in candidate.ran for one in ran.declined),
        candidate.inventory.ratio_parameters,
        figures,
        share,
    )
