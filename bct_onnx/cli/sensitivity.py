"""``bct-onnx sensitivity``: where the error comes from, ingredient by ingredient, pass by pass, tensor by tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bct_onnx.cli.bench import parse_shape
from bct_onnx.cli.eval import TASKS

if TYPE_CHECKING:
    from bct_onnx.pipeline import Pipeline

WAYS = ("ingredient", "pass", "tensor")


def sensitivity(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The exported ONNX model; never modified.")],
    *,
    by: Annotated[str, typer.Option(metavar="|".join(WAYS), help="What to take apart.")] = "ingredient",
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="ingredient: this one and no others; repeatable.")
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="tensor: run the N with the largest weighted error only.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="pass, tensor: a named pipeline. ingredient: one more row.")
    ] = None,
    passes: Annotated[str | None, typer.Option(metavar="TEXT", help="The same as a pipeline text.")] = None,
    target: Annotated[str | None, typer.Option(metavar="T", help="Lower for ort-cpu (default) or portable.")] = None,
    task: Annotated[
        str | None, typer.Option(metavar="|".join(TASKS), help="Also scores, as in eval; needs --data.")
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="FILE|NAME", help="The task's data, as in eval.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of tokenizer.json; by default the model's.")
    ] = None,
    text: Annotated[str, typer.Option(metavar="COLUMN[,COLUMN]", help="Text column or two of --data.")] = "",
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of labels, scores or tags.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows or windows of --data.")] = None,
    max_length: Annotated[int, typer.Option(min=1, help="Tokens per text, or predictions per window.")] = 128,
    batch: Annotated[int, typer.Option(min=1, help="Sequences of --data per run.")] = 32,
    calibrate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Calibration data, as in rewrite; not the data of the task.")
    ] = None,
    column: Annotated[
        str | None, typer.Option(metavar="COLUMN[,COLUMN]", help="Text column or two of the calibration data.")
    ] = None,
    shape: Annotated[str, typer.Option(metavar="BxS", help="Batch and sequence that are timed.")] = "8x128",
    rounds: Annotated[int, typer.Option(min=0, help="Timed runs per model, interleaved; 0 times nothing.")] = 10,
    threads: Annotated[int, typer.Option(min=0, help="Threads within an operator; 0 leaves it to ORT.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png|svg", help="Also a bar chart; pip install 'bct-onnx[plot]'.")
    ] = None,
) -> None:
    """Tell what each part of a rewrite costs.

    ingredient: each replacement alone (embeddings, weights, activations, GELU, attention, ...), then whole presets.
    pass: what each pass of a pipeline adds to those before it. tensor: each weight alone, the worst first.

    Distances are from the model as it came: SQNR of the outputs (dB), KL divergence of the logits (nats), on the
    task's data or else on random tokens. `x` is times faster than it, by medians and by minima of the rounds.
    """
    from bct_onnx.cli.progress import progress
    from bct_onnx.cli.sensitivity_table import print_result
    from bct_onnx.recipe import choose
    from bct_onnx.sensitivity import by_ingredient, by_pass, by_tensor, open_study, picture
    from bct_onnx.sensitivity.ingredients import chosen
    from bct_onnx.sensitivity.yardstick import Measuring
    from bct_onnx.tasks.catalogue import load_task

    _refuse(by, only, top, task, data)
    if plot is not None:
        picture.check(plot)
    pipeline, runtime = choose(preset=preset, passes=passes, target=target)
    name = preset or ("passes" if passes else None)
    whole = {name: pipeline} if name else {}
    parts = chosen(only or []) | whole if by == "ingredient" else {by: pipeline}
    parts = _with_data(parts, calibrate, tokenizer or model.parent, column.split(",") if column else None)
    columns, folder = tuple(filter(None, text.split(","))), tokenizer or model.parent
    loaded = None
    if task is not None and data is not None:
        loaded = load_task(task, data, folder, text=columns, label=label, max_length=max_length, limit=limit)
    timed = 0 if by == "tensor" else rounds
    measuring = Measuring(loaded, task or "", data or "", batch, parse_shape(shape), timed, threads)
    with progress(enabled=not as_json) as advance, open_study(model, runtime, measuring, advance) as opened:
        if by == "ingredient":
            found = by_ingredient(opened, parts)
        else:
            found = by_pass(opened, parts[by]) if by == "pass" else by_tensor(opened, parts[by], top)
    if plot is not None:
        picture.draw(found, plot)
    if as_json:
        print(json.dumps({"model": str(model)} | found.as_dict(), indent=2))
    else:
        print_result(found)


def _refuse(by: str, only: list[str] | None, top: int | None, task: str | None, data: str | None) -> None:
    """Raise for options that do not go together."""
    from bct_onnx.errors import UsageError

    if by not in WAYS:
        raise UsageError(f"a rewrite is not taken apart by '{by}'", where="--by", fix=f"use {', '.join(WAYS)}")
    if only and by != "ingredient":
        raise UsageError(f"--only is of no use with --by {by}", fix="leave it out")
    if top is not None and by != "tensor":
        raise UsageError(f"--top is of no use with --by {by}", fix="leave it out")
    if (task is None) != (data is None):
        missing, given = ("--data", "--task") if data is None else ("--task", "--data")
        raise UsageError(f"{given} needs {missing}", fix=f"add {missing}, or leave {given} out for random tokens")


def _with_data(
    parts: dict[str, Pipeline], data: Path | None, tokenizer: Path, column: list[str] | None
) -> dict[str, Pipeline]:
    """The pipelines with the user's data for those of them that calibrate."""
    from bct_onnx.errors import UsageError
    from bct_onnx.recipe import with_data

    if data is None:
        if column is not None:
            raise UsageError("--column needs --calibrate", fix="add --calibrate, or use --text for the task's data")
        return parts
    is_text = data.suffix.lower() != ".npz" and (tokenizer / "tokenizer.json").is_file()
    given = {"data": data, "tokenizer": tokenizer if is_text else None, "column": column}
    calibrating = [name for name, one in parts.items() if any(each.name == "calibrate" for each in one)]
    return parts | {name: with_data(parts[name], **given) for name in calibrating or parts}
