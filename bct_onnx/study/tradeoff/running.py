"""Row after row: build it apart, measure it, let it go."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bct_onnx import registry
from bct_onnx.digest import of_code
from bct_onnx.errors import BctError
from bct_onnx.graph.atomic import scratch
from bct_onnx.graph.inventory import PARAMETERS, inventory
from bct_onnx.graph.load import load, size
from bct_onnx.graph.names import entries
from bct_onnx.pipeline import Pipeline, find
from bct_onnx.study.candidates import Study
from bct_onnx.study.peers import Built
from bct_onnx.study.tradeoff.building import Place
from bct_onnx.study.tradeoff.result import Frontier, Row, read
from bct_onnx.study.tradeoff.rows import Job
from bct_onnx.study.tradeoff.subprocess import build_apart, first_line

Build = Callable[[Job, Place], Built]
"""As `bct_onnx.study.tradeoff.subprocess.build_apart`."""


def collect(
    study: Study,
    pipeline: Pipeline,
    jobs: Sequence[Job],
    setting: Mapping[str, Any],
    kept: Path | None,
    show: Callable[[Row], None],
    build: Build = build_apart,
) -> Frontier:
    """Run all rows, show each when it is finished, and keep it in a file that the next run goes on with.

    Args:
        study: The model and how to measure.
        pipeline: What ours is, for its calibration data.
        jobs: The rows.
        setting: What makes rows comparable; see `bct_onnx.study.tradeoff.result.setting_of`.
        kept: The file, which may hold rows of an earlier run; None keeps nothing.
        show: Told of each row.
        build: How to build a row's model.

    Raises:
        UsageError: The file is of another kind, or of a run in another setting.
        OutputError: The file cannot be written.
    """
    rows = {} if kept is None else read(kept, setting)
    finished = []
    for row in run(study, pipeline, jobs, dict(rows), build):
        finished.append(row)
        rows[row.name] = row
        show(row)
        if kept is not None:
            Frontier(setting, tuple(rows.values())).write(kept)
    return Frontier(setting, tuple(finished))


def run(
    study: Study, pipeline: Pipeline, jobs: Sequence[Job], done: Mapping[str, Row], build: Build = build_apart
) -> Iterator[Row]:
    """Yield the rows as they are finished; files lie in a temporary folder and are gone.

    Args:
        study: The model and how to measure.
        pipeline: What ours is, for its calibration data.
        jobs: The rows.
        done: Rows of an earlier run by name; what came of the same pipeline and code is not made again.
        build: How to build a row's model.
    """
    parameters = int(study.prepared(registry.preset("lift")).metadata_props[PARAMETERS])
    calibrate = str(find(pipeline, "calibrate") or "")
    planned: dict[tuple[str, bool], Built] = {}
    with scratch("frontier") as cache:
        for number, job in enumerate(jobs):
            study.progress(job.name, number, len(jobs))
            earlier = done.get(job.name)
            if earlier is not None and earlier.passes == job.passes and earlier.code == of_code() and not earlier.error:
                yield earlier
                continue
            with scratch("frontier") as folder:
                place = Place(study.source.absolute(), study.target, calibrate, folder, cache)
                built = build(job, place)
                if job.ratio is not None:
                    built = _as_if_alone(built, planned.setdefault((job.passes, job.row_widths), built))
                yield _measured(study, job, built, parameters)


def _as_if_alone(built: Built, first: Built) -> Built:
    """A plan for another ratio goes by what the first has measured; its time and memory count for each."""
    planning = max(built.planning, first.planning)
    peak = None if built.peak is None or first.peak is None else max(built.peak, first.peak)
    seconds = built.seconds - built.planning + planning
    slowest = max(("planning", planning), built.slowest, key=lambda step: step[1])
    return dataclasses.replace(built, planning=planning, seconds=seconds, slowest=slowest, peak=peak)


def _measured(study: Study, job: Job, built: Built, parameters: int) -> Row:
    row = Row(job.name, job.group, job.passes, built.text, job.ratio, error=built.error, code=of_code())
    if built.file is None:
        return row
    is_made = bool(job.passes or job.tool)
    try:
        nbytes = inventory(load(built.file)).nbytes
        figures = study.comparison.measure({job.name: built.file})[job.name].as_dict()
    except BctError as error:
        return dataclasses.replace(row, error=first_line(error))
    step, seconds = built.slowest
    return dataclasses.replace(
        row,
        ratio=4 * parameters / nbytes,
        bits=8 * nbytes / parameters,
        nbytes=size(built.file),
        figures=entries(figures, FIGURES),
        seconds=built.seconds if is_made else None,
        slowest=step,
        slowest_seconds=seconds if step else None,
        peak=built.peak if is_made else None,
    )


FIGURES = ("metrics", "drop", "sqnr_db", "exact", "kl", "agreement")
"""What a row keeps of its figures: nothing is timed."""
