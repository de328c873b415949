"""What each pass of a pipeline adds to the error of those before it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from bct_onnx.errors import GateError
from bct_onnx.pipeline import Pipeline, split
from bct_onnx.study.candidates import Candidate, Study, run_pass
from bct_onnx.study.result import Row, Sensitivity, row_of


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
    rows: list[Row] = []
    before = 0.0
    for candidate, figures in stages:
        share = (figures.noise - before) / whole if whole else math.nan
        rows.append(row_of(candidate, figures, candidate.ran, share))
        before = figures.noise
    return Sensitivity("pass", study.target, tuple(rows), (), study.comparison)


def _built(study: Study, pipeline: Pipeline) -> Iterator[Candidate]:
    exact, rest = split(study.without_lowering(pipeline))
    model = study.prepared(exact)
    study.progress("exact passes", 0, len(rest))
    yield study.build("exact passes", model.clone())
    for number, graph_pass in enumerate(rest):
        study.progress(graph_pass.name, number, len(rest))
        ran = run_pass(graph_pass, model)
        if ran.is_lossy and ran.sites:
            again = sum(before.name == graph_pass.name for before in rest[:number])
            name = f"{graph_pass.name} ({again + 1})" if again else graph_pass.name
            yield dataclasses.replace(study.build(name, model.clone()), ran=(ran,))
