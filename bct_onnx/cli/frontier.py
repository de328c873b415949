"""``bct-onnx frontier``: how much of a model's quality is left at which size, ours and others'."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bct_onnx.cli import options

if TYPE_CHECKING:
    from bct_onnx.frontier import Job, Row
    from bct_onnx.pipeline import Pipeline


def frontier(
    model: options.Model,
    *,
    task: options.Task,
    data: options.Data,
    tokenizer: options.Tokenizer = None,
    calibrate: options.Calibrate = None,
    column: options.Column = None,
    ratio: Annotated[
        list[float] | None,
        typer.Option(metavar="X", help="Times smaller by parameters; repeatable. By default 4, 8, 10, 12, 14.4."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[,NAME]", help="fp32, ours, nearest, shift, others, or a tool; repeatable."),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[,NAME]", help="Also ours without NAME at each ratio; repeatable; or all."),
    ] = None,
    preset: options.Preset = None,
    target: options.Target = None,
    text: options.Text = "",
    label: options.Label = None,
    limit: options.Limit = None,
    max_length: options.MaxLength = 128,
    batch: options.Batch = 32,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Results are kept there row by row; what it has is not made again."),
    ] = None,
    as_json: options.AsJson = False,
    plot: options.Plot = None,
) -> None:
    """Compress a model in many ways to many sizes, and tell what is left of it. Rows are printed as they are done.

    ours: the preset, with bits allotted for each ratio. nearest: the same bits everywhere, rounded to the nearest.
    shift: the 64 x 64 blocks of the BCT paper. All three have the preset's 8-bit activations and integer functions.
    others: what other tools make of the model; one that is not installed or fails says so.

    Seconds and peak memory are those of the compression, each in a process of its own.
    """
    from bct_onnx.cli.frontier_table import Lines, notes
    from bct_onnx.cli.progress import progress
    from bct_onnx.frontier import collect, setting_of
    from bct_onnx.frontier.picture import draw
    from bct_onnx.recipe import choose, with_data
    from bct_onnx.sensitivity import open_study
    from bct_onnx.sensitivity.picture import check
    from bct_onnx.tasks.catalogue import load_task
    from bct_onnx.yardstick import Measuring

    if plot is not None:
        check(plot)
    folder = tokenizer or model.parent
    pipeline, runtime = choose(preset=preset, target=target)
    pipeline = with_data(pipeline, **options.calibration(model, calibrate, tokenizer, column))
    jobs = _jobs(pipeline, ratio, only, without)
    loaded = load_task(task, data, folder, text=options.listed(text), label=label, max_length=max_length, limit=limit)
    count = len(loaded.tokens.ids)
    setting = setting_of(model, target=runtime, task=task, data=data, sequences=count, max_length=max_length)
    show = _nothing if as_json else Lines(jobs, sys.stdout)
    measuring = Measuring(loaded, task, data, batch, rounds=0)
    with progress(enabled=not as_json) as advance, open_study(model, runtime, measuring, advance) as study:
        found = collect(study, pipeline, jobs, setting, resume, show)
    if plot is not None:
        draw(found, plot)
    if as_json:
        print(json.dumps(found.as_dict(), indent=2))
    else:
        print("\n".join(notes(found, pipeline)))


def _jobs(
    pipeline: Pipeline, ratio: list[float] | None, only: list[str] | None, without: list[str] | None
) -> list[Job]:
    from bct_onnx.frontier import RATIOS, WITHOUT, Wanted, jobs

    left_out = _names(without)
    if "all" in left_out:
        left_out = tuple(name for name, change in WITHOUT.items() if change.has_place(pipeline))
    return jobs(pipeline, Wanted(tuple(ratio or RATIOS), _names(only), left_out))


def _names(given: list[str] | None) -> tuple[str, ...]:
    """Names of an option that is repeatable and takes several joined by commas, each once."""
    return tuple(dict.fromkeys(name for text in given or () for name in options.listed(text)))


def _nothing(row: Row) -> None:
    """Show nothing: the JSON output comes at the end."""
