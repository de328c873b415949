"""The whole flow of the main job.

    path -> load -> passes -> lowering -> save -> check in ONNX Runtime -> Report

`rewrite` is for models in memory as for files: only the two ends differ.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import onnx_ir as ir

from bct_onnx import digest, gates, parallel, registry, stamps, targets
from bct_onnx.base import Applied, Pass
from bct_onnx.course import Course
from bct_onnx.errors import GateError, TargetError, UsageError
from bct_onnx.graph import load, runtimes, save, tensors
from bct_onnx.graph.inventory import BYTES, TRAINED, Inventory, inventory
from bct_onnx.graph.snapshots import Snapshots
from bct_onnx.outcome import outcome
from bct_onnx.pipeline import Pipeline, split
from bct_onnx.progress import Progress, listening
from bct_onnx.recipe import with_own_text
from bct_onnx.reference import Reference
from bct_onnx.refusals import judged, refuse_quantized
from bct_onnx.registry import complete
from bct_onnx.report import Report, Step
from bct_onnx.runtime.session import runnable
from bct_onnx.study.allocation import Allocation
from bct_onnx.tasks.calibration import CalibrationData
from bct_onnx.verification import Promises, Verification, culprit, hold

DEFAULT_PRESET = next(iter(registry.PRESETS))
DEFAULT_TARGET = targets.DEFAULT

NOTES = 0.06
"""The greatest share of a result that notes for its readers may take (see `bct_onnx.graph.notes`): 4 to 5 % of the
bundled model of 0.8 MB, 15 % of one of 50 kB, where they would cost half a point of the ratio."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How to run a rewrite, apart from what it does.

    Attributes:
        output: Where to write the result; None keeps it in memory.
        force: Replace an existing output.
        dry_run: Do everything but write.
        keep_passes: Folder for one Netron-ready file per pass.
        verify_each: After every pass: ONNX checker, load in ONNX Runtime, outputs against the input model.
        check: Compare outputs and time both models at the end; None does so for models below `reference.LIMIT`.
        progress: Told about passes as they start, and about bytes written.
        executor: Does the work on single tensors: a pool of `concurrent.futures`, or the executor of a cluster whose
            workers see the model's files under the same paths. None works in this process. It never changes the result.
        under_way: Tensors that the executor has at a time; best one more than it has workers.
        cache: Folder where measurements of ``allocate`` are kept for other sizes of the same model; None keeps nothing.
        resume: Let training go on with what an interrupted run has left beside the output.
        reference: The input model as a check runs it, where several results are made of one; None makes it.
        accept: Write also what is larger than its source or has nothing to do with it (see `bct_onnx.gates`).
    """

    output: Path | None = None
    force: bool = False
    dry_run: bool = False
    keep_passes: Path | None = None
    verify_each: bool = False
    check: bool | None = None
    progress: Progress = lambda label, done, total: None
    executor: Executor | None = None
    under_way: int = parallel.UNDER_WAY
    reference: Reference | None = None
    accept: bool = False
    cache: Path | None = None
    resume: bool = False

    @property
    def unfinished(self) -> Path | None:
        """Where a pass that trains keeps what it has got so far; None where nothing is written."""
        if self.output is None or self.dry_run:
            return None
        return self.output.with_name(f"{self.output.name}.unfinished")


def rewrite(
    model: ir.Model | str | Path,
    pipeline: str | Pipeline | Iterable[Pass] | None = None,
    *,
    target: str = DEFAULT_TARGET,
    options: Options = Options(),
) -> Report:
    """Rewrite a model and report what was done.

    Args:
        model: A file, or a model in memory, which is changed in place.
        pipeline: A preset's name, a pipeline text, or passes; the target's preset by default. A preset, by its name,
            calibrates on English text of ours where a tokenizer lies beside the file, as the command does; a text or
            passes calibrate as they say, so ``registry.preset("bct-plus")`` does on random tokens.
        target: The runtime to lower for: "ort-cpu", "portable" for standard operators only, or another of
            `bct_onnx.targets`; "ort-cpu@1.20" for what ONNX Runtime 1.20 and later run.
        options: Where to write, what to keep, how far to check.

    Raises:
        UsageError: Unknown preset, pass, option or target; an output that may not be written.
        InputModelError: The input cannot be used.
        GateError: Nothing was changed, or nothing compressed; passes broke their promise to be exact; the result is
            larger than its source or has nothing to do with it, and that was not accepted.
        TargetError: The target does not take what was asked for, or ONNX Runtime cannot load the result; nothing is
            written then.
        OutputError: The result could not be written.
    """
    source = None if isinstance(model, ir.Model) else Path(model)
    pipeline = registry.default_preset(target) if pipeline is None else pipeline
    if source is not None and isinstance(pipeline, str) and registry.is_preset(pipeline):
        pipeline = with_own_text(registry.preset(pipeline), source.parent)
    passes = complete(pipeline, target)
    inputs = () if source is None else load.files(source)
    if options.output is not None:
        save.check_writable(options.output, force=options.force, inputs=inputs)
    with contextlib.ExitStack() as stack:
        stack.enter_context(parallel.through(options.executor, options.under_way))
        if options.output is not None and not options.dry_run:
            stack.enter_context(tensors.Spool(options.output.absolute().parent))
        source_digest = stack.enter_context(digest.beside(inputs))
        graph = model if isinstance(model, ir.Model) else load.load(model)
        refuse_quantized(graph, passes)
        before = inventory(graph)
        with _details(options, "input model", 0, len(passes)):
            given = CalibrationData.ahead(passes)
            session_settings = targets.find(target).session
            reference = options.reference or Reference(source, graph, options.check, session_settings, given)
        snapshots = stack.enter_context(Snapshots(options.keep_passes, force=options.force))
        snapshots.add(graph, "input", "as it came")
        held = Verification(reference) if options.verify_each else Promises(reference)
        kept = (options.cache, options.unfinished, options.resume)
        course = Course(tuple(passes), 0, before.parameters, source, *kept)
        steps = tuple(_run(graph, course, held, snapshots, options))
        gates.changed(steps, str(source or graph.graph.name))
        exact, _ = split(passes)
        before = dataclasses.replace(before, parameters=_parameters(before, steps[: len(exact)]))
        expanded = runtimes.expanded(graph)
        legality, products = judged(graph, target, passes, expanded)
        stamps.write(graph, passes, before.parameters, source_digest() if inputs else "", target, products.said)
        bytes_in = load.nbytes_of(inputs) or before.nbytes
        after = inventory(graph)
        graph.metadata_props[BYTES] = str(after.nbytes)
        report = Report(passes.full_text(), target, steps, before, after, kept=snapshots.folder)
        report = dataclasses.replace(report, legality=legality, products=products, allocation=Allocation.of(graph))
        report = dataclasses.replace(report, lowest=runtimes.lowest(graph, expanded))
        engine = targets.find(target).engine
        judging: dict[str, Any] = {"model": graph, "passes": passes, "reference": reference, "engine": engine}
        accept = options.accept or TRAINED in graph.metadata_props  # held to texts of the user's, not to random ones
        checked = functools.partial(_checked, **judging, exact=held.kept, accept=accept)
        with _details(options, "check", len(passes), len(passes)):
            return _finish(graph, report, bytes_in, checked, options)


def allotted(
    source: Path,
    pipeline: Pipeline,
    target: str,
    *,
    cache: Path | None = None,
    progress: Progress = lambda label, done, total: None,
) -> Allocation:
    """The formats that a pipeline's ``allocate`` chooses; what comes behind it is not run.

    Raises:
        UsageError: No pass allots formats, or as `rewrite`.
        InputModelError, GateError, TargetError: As `rewrite`.
    """
    passes = tuple(complete(pipeline, target))
    model = load.load(source)
    refuse_quantized(model, pipeline)
    course = Course(passes, 0, inventory(model).parameters, source, cache)
    options, held = Options(progress=progress), Promises(Reference(source, model, False))
    with Snapshots(None) as snapshots:
        for _ in _run(model, course, held, snapshots, options):
            if (allocation := Allocation.of(model)) is not None:
                return allocation
    raise UsageError("no pass allots formats", where=str(pipeline), fix="put allocate{ratio=10} into the pipeline")


def _run(
    model: ir.Model, course: Course, held: Promises | Verification, snapshots: Snapshots, options: Options
) -> Iterator[Step]:
    passes, parameters, exact = course.passes, course.parameters, len(split(course.passes)[0])
    now = inventory(model)
    for number, graph_pass in enumerate(passes):
        options.progress(graph_pass.name, number, len(passes))
        dataclasses.replace(course, at=number, parameters=parameters).show(model)
        start = time.perf_counter()
        held.before(graph_pass, model)
        with _details(options, graph_pass.name, number, len(passes)):
            result = graph_pass(model)
        seconds = time.perf_counter() - start
        snapshots.add(runnable(model), graph_pass.name, _told(result))
        parity = held.after(graph_pass, model, bool(result.sites))
        if result.modified:
            now = inventory(model)
        if number < exact:
            parameters = min(parameters, now.parameters)
        yield Step(
            str(graph_pass),
            graph_pass.stage,
            result.sites,
            result.declined,
            now.nbytes,
            now.parameters,
            seconds,
            parity,
            result.note,
        )
    held.finish(model)
    options.progress("done", len(passes), len(passes))


def _told(result: Applied) -> str:
    """What a pass did, for the index of its snapshots."""
    changed, declined = len(result.sites), len(result.declined)
    parts = [f"{count} {kind}" for count, kind in ((changed, "changed"), (declined, "declined")) if count]
    return ", ".join(parts) or "nothing to do"


def _details(options: Options, name: str, done: int, total: int) -> contextlib.AbstractContextManager[None]:
    """Tell what is being done within a step too."""
    return listening(lambda detail: options.progress(f"{name}: {detail}", done, total))


def _parameters(before: Inventory, exact: tuple[Step, ...]) -> int:
    """Parameters of the input, each counted once: exporters store tied weights twice, and exact passes undo that."""
    return min([before.parameters, *(step.parameters for step in exact)])


def _checked(
    result: Path | ir.Model,
    model: ir.Model,
    passes: Pipeline,
    reference: Reference,
    *,
    engine: str,
    exact: bool,
    accept: bool,
) -> dict[str, Any]:
    """Run the result: the fields of a `Report` that come from that.

    Raises:
        GateError: Its outputs are not the source's though all that was done promises so, or have nothing to do with it.
        TargetError: ONNX Runtime cannot load or run it.
    """
    try:
        entries = outcome(reference, result, engine)
        if exact and "parity" in entries:
            hold(reference, None, model, tuple(passes))
    except (GateError, TargetError) as error:
        raise culprit(reference, passes) or error from error
    if "parity" in entries:
        gates.related(entries["parity"], accept=accept)
    if "elsewhere" in entries:
        gates.related(entries["elsewhere"], accept=accept, engine=entries["timed_in"])
    return entries


def _finish(
    model: ir.Model,
    report: Report,
    bytes_in: int,
    checked: Callable[[Path | ir.Model], dict[str, Any]],
    options: Options,
) -> Report:
    """Write and check the result. ONNX Runtime loads it before it gets its name."""
    predicted = dataclasses.replace(report, file_bytes=(bytes_in, save.predicted_size(model, NOTES)))
    gates.smaller(predicted, accept=options.accept)
    if options.output is None or options.dry_run:
        return dataclasses.replace(predicted, **checked(model))
    entries: dict[str, Any] = {}
    files = save.save(
        model,
        options.output,
        force=options.force,
        progress=lambda done, total: options.progress("writing", done, total),
        validate=lambda file: entries.update(checked(file)),
        notes=NOTES,
    )
    written = load.nbytes_of(files)
    return dataclasses.replace(report, files=files, file_bytes=(bytes_in, written), **entries)
