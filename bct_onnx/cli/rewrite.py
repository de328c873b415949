"""``bct-onnx rewrite``: the main job."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bct_onnx.cli import options
from bct_onnx.cli.plan import (
    CacheFolder,
    MaxDrop,
    NoCache,
    TargetBits,
    TargetRatio,
    TaskData,
    TaskName,
    Wish,
    check_writable,
    make,
    write,
)

if TYPE_CHECKING:
    from bct_onnx.report import Report
    from bct_onnx.rewriting import Options


def rewrite(
    model: options.Model,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="OUT", help="Where to write the result.")
    ] = None,
    preset: options.Preset = None,
    passes: options.Passes = None,
    recipe: options.Recipe = None,
    target: options.Target = None,
    calibrate: options.Calibrate = None,
    tokenizer: options.Tokenizer = None,
    column: options.Column = None,
    target_ratio: TargetRatio = None,
    target_bits: TargetBits = None,
    max_drop: MaxDrop = None,
    task: TaskName = None,
    data: TaskData = None,
    text: options.Text = "",
    label: options.Label = None,
    plan: Annotated[
        Path | None, typer.Option(metavar="PLAN.toml", help="Also write the plan for one of these targets.")
    ] = None,
    cache: CacheFolder = None,
    no_cache: NoCache = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do everything but write; sizes are predicted.")] = False,
    as_json: options.AsJson = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what exists at OUT and at --keep-passes.")] = False,
    keep_passes: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write the model after every pass, for Netron.")
    ] = None,
    verify_each: Annotated[
        bool, typer.Option("--verify-each", help="Check and run the model after every pass, against the input model.")
    ] = False,
    check: Annotated[
        bool | None,
        typer.Option(
            "--check/--no-check", help="Compare outputs and time both models; on by default below 1 GiB of weights."
        ),
    ] = None,
    min_ratio: Annotated[
        float | None, typer.Option(metavar="X", help="Exit with 1 if parameters shrink less than X times.")
    ] = None,
    min_sqnr: Annotated[
        float | None, typer.Option(metavar="DB", help="Exit with 1 if the SQNR of an output is below DB.")
    ] = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="Write also what is larger than MODEL or has nothing to do with it.")
    ] = False,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Processes that quantize weights; the result is the same.")
    ] = 1,
    quiet: options.Quiet = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="List everything that was declined, and every tensor's error.")
    ] = False,
) -> None:
    """Make an exported model small and fast.

    Runs the passes of a preset (bct-plus unless you say otherwise) and the target's lowering, writes OUT whole or not
    at all, loads it in ONNX Runtime, and prints what was done: size, error, speed, and what stayed in floating point
    and why.

    With --target-ratio, --target-bits or --max-drop it first chooses how many bits each weight gets, as 'plan' does.
    """
    from bct_onnx.errors import UsageError
    from bct_onnx.spread import workers

    if output is None and not dry_run:
        raise UsageError("no output was given", fix="add -o OUT.onnx, or --dry-run to write nothing")
    if tokenizer is not None and calibrate is None and data is None:
        raise UsageError("--tokenizer is of no use without data", fix="add --calibrate FILE, or leave it out")
    wish = Wish(target_ratio, target_bits, max_drop, task, data, text, label, cache, no_cache)
    with workers(jobs, "bct_onnx.quant.jobs") as executor:  # they start while this process imports the rest
        from bct_onnx.cli.progress import progress
        from bct_onnx.recipe import choose, with_data
        from bct_onnx.rewriting import Options
        from bct_onnx.rewriting import rewrite as run

        _check_plan(wish, plan, output, force=force)
        pipeline, chosen_target = choose(preset=preset, passes=passes, recipe=recipe, target=target)
        pipeline = with_data(pipeline, **options.calibration(model, calibrate, tokenizer, column))
        with progress(enabled=not (quiet or as_json)) as advance:
            if wish.given:
                planned, _ = make(model, pipeline, chosen_target, wish, tokenizer, advance)
                pipeline = planned.passes()
                if plan is not None:
                    write(planned, plan, force=force)
            how = Options(output, force, dry_run, keep_passes, verify_each, check, advance, executor, jobs + 1, accept)
            report = run(model, pipeline, target=chosen_target, options=how)
    if as_json:
        json.dump(report.as_dict(), sys.stdout, indent=2)
        print()
    elif not quiet:
        _print(report, model, how, verbose)
    _gate(report, min_ratio, min_sqnr)


def _check_plan(wish: Wish, plan: Path | None, output: Path | None, *, force: bool) -> None:
    """Refuse what cannot work before the plan, which takes longest, is made."""
    from bct_onnx.errors import UsageError
    from bct_onnx.graph.save import check_writable as check_model

    wish.check()
    if plan is not None:
        if not wish.given:
            raise UsageError("--plan needs a target", fix="add --target-ratio, --target-bits or --max-drop")
        check_writable(plan, force=force)
    if wish.given and output is not None:
        check_model(output, force=force)


def _print(report: Report, model: Path, how: Options, verbose: bool) -> None:
    from bct_onnx.cli.tables import print_report

    print_report(report, model, how, verbose=verbose)


def _gate(report: Report, min_ratio: float | None, min_sqnr: float | None) -> None:
    from bct_onnx.errors import GateError, UsageError

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
