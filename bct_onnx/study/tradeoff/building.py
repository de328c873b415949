"""Build one row's model: what runs in a process of its own."""

from __future__ import annotations

import dataclasses
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bct_onnx import registry
from bct_onnx.base import Stage
from bct_onnx.graph.load import load
from bct_onnx.recipe import with_size
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.inputs import inputs_of
from bct_onnx.runtime.session import session
from bct_onnx.runtime.understanding import Sampler
from bct_onnx.study.peers import TOOLS, Built, make, settings_alone
from bct_onnx.study.tradeoff.rows import Job
from bct_onnx.tasks.calibration import CalibrationData

SAMPLES, BATCH, LENGTH = 128, 8, 128
"""What tools that calibrate are given: sequences of the data, how many at a time, and their tokens at most."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where rows are built, and from what.

    Attributes:
        model: The float model.
        target: The runtime to lower for.
        calibrate: Text of the pipeline's pass ``calibrate``, whose data tools get too; may be empty.
        folder: Where to write; must exist.
        cache: Where plans keep what they have measured for other ratios; must exist.
    """

    model: Path
    target: str
    calibrate: str
    folder: Path
    cache: Path


def build(job: Job, place: Place) -> Built:
    """Build a row's model.

    Raises:
        BctError: It cannot be done. Tools that fail say so in the result instead.
    """
    if job.tool:
        built = _by_tool(job, place)
    elif job.passes:
        built = _by_passes(job, place)
    else:
        built = Built(place.model)
    return dataclasses.replace(built, peak=peak_memory())


def _by_passes(job: Job, place: Place) -> Built:
    start = time.perf_counter()
    pipeline = registry.parse(job.passes)
    if job.ratio is not None:
        pipeline = with_size(pipeline, ratio=job.ratio, row_widths=job.row_widths)
    file = place.folder / "model.onnx"
    options = Options(file, check=False, cache=place.cache)
    report = rewrite(place.model, pipeline, target=place.target, options=options)
    seconds = time.perf_counter() - start
    planning = sum(step.seconds for step in report.steps if step.stage is Stage.ALLOT)
    slowest = max(report.steps, key=lambda step: step.seconds)
    name = slowest.text.partition("{")[0]
    return Built(file, str(pipeline), seconds, planning, (name, slowest.seconds))


def _by_tool(job: Job, place: Place) -> Built:
    tool = settings_alone(TOOLS[job.tool])[job.setting] if job.setting else TOOLS[job.tool]
    samples = _samples(place)
    return make(tool, place.model, place.folder, samples[0], samples)


def _samples(place: Place) -> Sequence[Feeds]:
    """Batches of the user's data, or random tokens."""
    graph = load(place.model)
    given = CalibrationData.ahead(registry.parse(place.calibrate))
    if given.file is None:
        sampler = Sampler(graph, session(place.model))
        return sampler.samples(BATCH, LENGTH // 2, range(SAMPLES // BATCH))
    return list(given.read(inputs_of(graph), SAMPLES, LENGTH).batches(BATCH))


def peak_memory() -> int | None:
    """Largest resident memory of this process so far, in bytes; None where the system does not tell.

    Linux counts what a process had before it became this program in ``getrusage``, so its own record is read.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        peak = re.search(r"VmHWM:\s+(\d+)", status.read_text(encoding="ascii"))
        return None if peak is None else int(peak[1]) * 1024
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform == "darwin":
        return int(largest)
    return int(largest) * 1024
