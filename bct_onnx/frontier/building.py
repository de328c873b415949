"""Build one row's model: what runs in a process of its own."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bct_onnx import recipe, registry
from bct_onnx.base import Pass
from bct_onnx.frontier.jobs import Job
from bct_onnx.graph.load import load
from bct_onnx.pipeline import Pipeline
from bct_onnx.report import Report
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.feeds import Feeds, random_feeds, vocabulary
from bct_onnx.runtime.inputs import inputs_of
from bct_onnx.runtime.others import TOOLS, make, settings_alone
from bct_onnx.tasks.calibration import read_samples

SAMPLES, BATCH, LENGTH = 128, 8, 128
"""What tools that calibrate are given: sequences of the data, how many at a time, and their tokens at most."""


@dataclasses.dataclass(frozen=True)
class Built:
    """A model on disk, or why there is none.

    Attributes:
        file: The model; None if it failed.
        text: The pipeline with all its options, or the setting of a tool.
        seconds: Wall time, reading and writing files included.
        slowest: The step that took longest, and its seconds; empty where there are no steps.
        peak: Largest memory of the process in bytes, Python and its libraries included; None where it cannot be told.
        error: The first line of what went wrong.
    """

    file: Path | None = None
    text: str = ""
    seconds: float = 0.0
    slowest: tuple[str, float] = ("", 0.0)
    peak: int | None = None
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self) | {"file": None if self.file is None else str(self.file)}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Built:
        """Inverse of `as_dict`."""
        file, (step, seconds) = values["file"], values["slowest"]
        return cls(**{**values, "file": file and Path(file), "slowest": (step, seconds)})


def build(job: Job, model: Path, target: str, calibrate: Pass | None, folder: Path) -> Built:
    """Build a row's model.

    Args:
        job: The row.
        model: The float model.
        target: The runtime to lower for.
        calibrate: The pass ``calibrate`` of the pipeline, whose data tools get too.
        folder: Where to write; must exist.

    Raises:
        BctError: It cannot be done. Tools that fail say so in the result instead.
    """
    if job.tool:
        built = _by_tool(job, model, calibrate, folder)
    elif job.passes:
        built = _by_passes(job, model, target, folder)
    else:
        built = Built(model)
    return dataclasses.replace(built, peak=peak_memory())


def _by_passes(job: Job, model: Path, target: str, folder: Path) -> Built:
    start = time.perf_counter()
    pipeline = registry.parse(job.passes)
    planning = 0.0
    if job.ratio is not None:
        pipeline = _planned(pipeline, job.ratio, model, target, folder)
        planning = time.perf_counter() - start
    file = folder / "model.onnx"
    report = rewrite(model, pipeline, target=target, options=Options(file, check=False))
    seconds = time.perf_counter() - start
    return Built(file, str(pipeline), seconds, _slowest(report, planning))


def _planned(pipeline: Pipeline, ratio: float, model: Path, target: str, folder: Path) -> Pipeline:
    from bct_onnx.planning import plan

    found = plan(model, pipeline, target, ratio=ratio, bits=None, progress=lambda label, done, total: None)
    file = folder / "plan.toml"
    file.write_text(found.recipe(), encoding="utf-8")
    return recipe.read(file)[0]


def _slowest(report: Report, planning: float) -> tuple[str, float]:
    steps = [("planning", planning), *((step.text.partition("{")[0], step.seconds) for step in report.steps)]
    return max(steps, key=lambda step: step[1])


def _by_tool(job: Job, model: Path, calibrate: Pass | None, folder: Path) -> Built:
    tool = settings_alone(TOOLS[job.tool])[job.setting] if job.setting else TOOLS[job.tool]
    samples = _samples(model, calibrate)
    made = make(tool, model, folder, samples[0], samples)
    return Built(made.path, made.setting, made.seconds, error=made.error)


def _samples(model: Path, calibrate: Pass | None) -> Sequence[Feeds]:
    """Batches of the user's data, or random tokens."""
    graph = load(model)
    options = {} if calibrate is None else dict(calibrate.options(defaults=True))
    if not options.get("data"):
        known = vocabulary(graph)
        seeds = range(SAMPLES // BATCH)
        return [random_feeds(graph, batch=BATCH, sequence=LENGTH // 2, seed=seed, vocab=known) for seed in seeds]
    tokenizer = Path(str(options["tokenizer"])) if options["tokenizer"] else None
    columns: Any = options["column"]
    data = Path(str(options["data"]))
    found = read_samples(data, inputs_of(graph), tokenizer=tokenizer, columns=columns, limit=SAMPLES, length=LENGTH)
    return list(found.batches(BATCH))


def peak_memory() -> int | None:
    """Largest resident memory of this process so far, in bytes; None where the system does not tell.

    Linux counts what a process had before it became this program in ``getrusage``, so its own record is read.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) * 1024 if "VmHWM" in lines else None
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(largest) if sys.platform == "darwin" else int(largest) * 1024
