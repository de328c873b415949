"""``bct-onnx rewrite``: the main job."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from bct_onnx.cli import folder, options
from bct_onnx.cli.calibrating import CalibrationData
from bct_onnx.cli.completion import PRESETS_FILE
from bct_onnx.cli.groups import OptionGroup, PanelCommand, grouped
from bct_onnx.cli.sizing import PRINTED_ONLY, Planned, SizeGoal

if TYPE_CHECKING:
    from bct_onnx.progress import Progress
    from bct_onnx.report import Report
    from bct_onnx.rewriting import Options

WRITING = "What to write"

ModelOrFolder = Annotated[
    Path, typer.Argument(metavar="MODEL", help="The exported ONNX model, or the folder of one; never modified.")
]


@dataclasses.dataclass(frozen=True)
class Writing(OptionGroup):
    """Where the result goes, and what may be replaced there."""

    panel: ClassVar[str] = WRITING

    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="OUT", help="Where to write the result.")] = (
        None
    )
    layout: Annotated[
        str | None,
        typer.Option(
            metavar="CLIENT",
            help="MODEL is a folder: who loads OUT: optimum, transformers.js, sentence-transformers or genai; by "
            "default who loads MODEL.",
        ),
    ] = None
    force: Annotated[bool, typer.Option("--force", help="Replace what exists at OUT and at --keep-passes.")] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do everything but write; sizes are predicted.")] = False
    keep_passes: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write the model after every pass, for Netron.")
    ] = None
    page: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="PAGE.html",
            help="Also a page that shows what was done and lost, where, and what next; implies --verify-each.",
        ),
    ] = None
    accept: Annotated[
        bool, typer.Option("--accept", help="Write also what is larger than MODEL or has nothing to do with it.")
    ] = False


@dataclasses.dataclass(frozen=True)
class Checking(OptionGroup):
    """How the result is checked against the model as it came."""

    panel: ClassVar[str] = "How to check it"

    check: Annotated[
        bool | None,
        typer.Option(
            "--check/--no-check", help="Compare outputs and time both models; on by default below 1 GiB of weights."
        ),
    ] = None
    verify_each: Annotated[
        bool, typer.Option("--verify-each", help="Check and run the model after every pass, against the input model.")
    ] = False
    min_ratio: Annotated[
        float | None, typer.Option(metavar="X", help="Exit with 1 if parameters shrink less than X times.")
    ] = None
    min_sqnr: Annotated[
        float | None, typer.Option(metavar="DB", help="Exit with 1 if the SQNR of an output is below DB.")
    ] = None


class RewriteCommand(PanelCommand):
    """The command, whose help names the presets with a line each."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the presets, the default first."""
        from bct_onnx.presets import read

        with formatter.section("Presets (what each makes of a model: 'bct-onnx list presets')"):
            formatter.write_dl([(name, preset.audience) for name, preset in read(PRESETS_FILE).presets.items()])


@grouped
def rewrite(
    model: ModelOrFolder,
    *,
    writing: Writing,
    choice: Annotated[options.PipelineChoice, WRITING],
    goal: SizeGoal,
    scored: Annotated[options.TaskData, SizeGoal.panel],
    calibration: CalibrationData,
    checking: Checking,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, metavar="N", help="Processes that quantize; the result is the same.")
    ] = 1,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="List everything that was declined, and every tensor's error.")
    ] = False,
) -> None:
    """Make an exported model small and fast, or every model of a folder.

    Runs the passes of a preset (bct-plus unless you say otherwise) and the target's lowering, writes OUT whole or not
    at all, loads it in ONNX Runtime, and prints what was done: size, error, speed, and what stayed in floating point
    and why.

    With --target-ratio, --target-bits, --max-drop or --target-sqnr it first chooses how many bits each weight gets: it
    measures in the model how much noise each makes at the outputs, and gives bits where they take away most. The
    measurements are kept, so that another goal for the same model takes seconds.

    A folder becomes a folder: its models are rewritten, configurations and tokenizer copied, a checkpoint is exported
    on the way, and a README tells how to load it and what it lost.
    """
    from bct_onnx.errors import UsageError
    from bct_onnx.parallel import workers

    _refuse(model, writing, goal, scored, quiet=quiet)
    calibration.refuse(scored, is_own=choice.is_own)
    if model.is_dir():
        folder.refuse(model, writing, goal)
    elif writing.layout is not None:
        raise UsageError("--layout is for folders", where=str(model), fix="give the model's folder, or leave it out")
    plan_only = writing.dry_run and goal.plan is not None
    with workers(1 if plan_only else jobs, "bct_onnx.quant.jobs") as executor:  # they start while this process imports
        from bct_onnx.cli.progress import progress
        from bct_onnx.recipe import with_formats, with_size
        from bct_onnx.rewriting import Options
        from bct_onnx.rewriting import rewrite as run

        pipeline, target = choice.read()
        pipeline = folder.fitted(pipeline, model, writing, target, is_own=choice.is_own)
        pipeline = goal.given_to(calibration.given_to(pipeline, model, is_own=choice.is_own))
        with progress(enabled=not (quiet or as_json)) as advance:
            how = Options(
                output=writing.output,
                force=writing.force,
                dry_run=writing.dry_run,
                keep_passes=writing.keep_passes,
                verify_each=checking.verify_each or writing.page is not None,
                check=checking.check,
                progress=advance,
                executor=executor,
                under_way=jobs + 1,
                accept=writing.accept,
                cache=goal.folder,
                resume=goal.resume,
            )
            if model.is_dir():
                if goal.given:
                    pipeline = with_size(pipeline, ratio=goal.target_ratio, bits=goal.target_bits)
                done = folder.rewrite_models(
                    model, writing, how, functools.partial(run, pipeline=pipeline, target=target)
                )
                folder.show(done, model, how, as_json=as_json, quiet=quiet, verbose=verbose)
                for report in done.reports.values():
                    _gate(report, checking)
                return
            planned, chosen = None, pipeline
            if goal.given and (plan_only or goal.is_searched):
                planned = goal.make_plan(model, pipeline, target, scored, calibration.tokenizer, advance)
                pipeline = with_formats(pipeline, planned.allocation.formats())
            elif goal.given:
                pipeline = with_size(pipeline, ratio=goal.target_ratio, bits=goal.target_bits)
            if planned is not None:
                planned.write(goal.plan, force=writing.force)
            if planned is not None and plan_only:
                planned.show(goal.plan, as_json=as_json, quiet=quiet)
                return
            report = run(model, pipeline, target=target, options=how)
            if planned is None and report.allocation is not None:
                Planned(model, chosen, target, report.allocation).write(goal.plan, force=writing.force)
            if writing.page is not None:
                _write_page(writing.page, report, model, writing, calibration, advance)
    _show(report, model, how, as_json=as_json, quiet=quiet, verbose=verbose)
    if writing.page is not None and not (quiet or as_json):
        print(f"  report     {writing.page}")
    _gate(report, checking)


def _write_page(
    page: Path,
    report: Report,
    model: Path,
    writing: Writing,
    calibration: CalibrationData,
    advance: Progress,
) -> None:
    """Measure both files once more and write the page."""
    from bct_onnx.page import gather, render, write

    assert writing.output is not None  # refused before
    evidence = gather(model, writing.output, report, calibration.tokenizer, advance)
    write(page, render(report, evidence, model, writing.output), force=writing.force)


def _refuse(
    model: Path,
    writing: Writing,
    goal: SizeGoal,
    scored: options.TaskData,
    *,
    quiet: bool,
) -> None:
    """Refuse what cannot work before the plan, which takes longest, is made."""
    from bct_onnx.errors import UsageError

    if writing.output is None and not writing.dry_run:
        raise UsageError("no output was given", fix="add -o OUT.onnx, or --dry-run to write nothing")
    goal.check(scored, force=writing.force)
    if writing.page is not None:
        _refuse_page(writing.page, model, writing)
    if goal.plan == PRINTED_ONLY and (quiet or not writing.dry_run):
        raise UsageError("no output was given", fix="add --plan PLAN.toml")
    if goal.given and writing.output is not None and not writing.output.is_dir():
        from bct_onnx.graph.save import check_writable

        check_writable(writing.output, force=writing.force)


def _refuse_page(page: Path, model: Path, writing: Writing) -> None:
    """Refuse a page that cannot be made, or not there."""
    from bct_onnx.errors import UsageError
    from bct_onnx.page import check_writable

    if writing.output is None or writing.dry_run:
        raise UsageError("--report measures the file that is written", fix="leave --dry-run out and give -o OUT.onnx")
    if not model.is_dir():  # which is refused by what is refused for folders
        check_writable(page, model, writing.output, force=writing.force)


def _show(report: Report, model: Path, how: Options, *, as_json: bool, quiet: bool, verbose: bool) -> None:
    from bct_onnx.cli.tables.report import print_report

    if as_json:
        print(json.dumps(report.as_dict(), indent=2))
    elif not quiet:
        print_report(report, model, how, verbose=verbose)


def _gate(report: Report, checking: Checking) -> None:
    """Raise where the result misses what the user asked for."""
    from bct_onnx.errors import GateError, UsageError

    min_ratio, min_sqnr = checking.min_ratio, checking.min_sqnr
    if min_ratio is not None and report.after.ratio_parameters < min_ratio:
        raise GateError(
            f"parameters shrank {report.after.ratio_parameters:.2f} times, less than --min-ratio {min_ratio:g}"
        )
    if min_sqnr is not None:
        if report.parity is None:
            raise UsageError("--min-sqnr needs outputs to compare", why=report.unchecked, fix="add --check")
        name, worst = report.parity.worst
        if worst.sqnr_db < min_sqnr:
            raise GateError(f"output '{name}' has SQNR {worst.sqnr_db:.1f} dB, below --min-sqnr {min_sqnr:g}")
