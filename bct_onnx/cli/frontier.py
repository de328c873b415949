"""``bct-onnx frontier``: how much of a model's quality is left at which size, ours and others'."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bct_onnx.cli.eval import TASKS

if TYPE_CHECKING:
    from bct_onnx.frontier import Job, Row
    from bct_onnx.pipeline import Pipeline


def frontier(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The exported ONNX model; never modified.")],
    *,
    task: Annotated[str, typer.Option(metavar="|".join(TASKS), help="What the model is for.")],
    data: Annotated[str, typer.Option(metavar="FILE|NAME", help="The task's data, as in eval.")],
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of tokenizer.json; by default the model's.")
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Calibration data, as in rewrite; not the data of the task.")
    ] = None,
    calibrate_column: Annotated[
        str | None, typer.Option(metavar="COLUMN[,COLUMN]", help="Text column or two of the calibration data.")
    ] = None,
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
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="What ours, nearest and shift are made of; bct-plus.")
    ] = None,
    target: Annotated[str | None, typer.Option(metavar="T", help="Lower for ort-cpu (default) or portable.")] = None,
    text: Annotated[str, typer.Option(metavar="COLUMN[,COLUMN]", help="Text column or two of --data.")] = "",
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of labels, scores or tags.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows or windows of --data.")] = None,
    max_length: Annotated[int, typer.Option(min=1, help="Tokens per text, or predictions per window.")] = 128,
    batch: Annotated[int, typer.Option(min=1, help="Sequences of --data per run.")] = 32,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Results are kept there row by row; what it has is not made again."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png|svg", help="Also a picture; pip install 'bct-onnx[plot]'.")
    ] = None,
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
    from bct_onnx.sensitivity import open_study
    from bct_onnx.sensitivity.picture import check
    from bct_onnx.sensitivity.yardstick import Measuring
    from bct_onnx.tasks.catalogue import load_task

    if plot is not None:
        check(plot)
    folder, columns = tokenizer or model.parent, tuple(filter(None, text.split(",")))
    pipeline, runtime = _pipeline(preset, target, calibrate, folder, calibrate_column)
    jobs = _jobs(pipeline, ratio, only, without)
    loaded = load_task(task, data, folder, text=columns, label=label, max_length=max_length, limit=limit)
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


def _pipeline(
    preset: str | None, target: str | None, data: Path | None, tokenizer: Path, column: str | None
) -> tuple[Pipeline, str]:
    """The preset with the user's data in it, and the target."""
    from bct_onnx.errors import UsageError
    from bct_onnx.recipe import choose, with_data

    pipeline, runtime = choose(preset=preset, target=target)
    if data is None:
        if column is not None:
            raise UsageError("--calibrate-column needs --calibrate", fix="add --calibrate")
        return pipeline, runtime
    is_text = data.suffix.lower() != ".npz" and (tokenizer / "tokenizer.json").is_file()
    columns = column.split(",") if column else None
    return with_data(pipeline, data=data, tokenizer=tokenizer if is_text else None, column=columns), runtime


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
    return tuple(dict.fromkeys(name for text in given or () for name in text.split(",") if name))


def _nothing(row: Row) -> None:
    """Show nothing: the JSON output comes at the end."""
