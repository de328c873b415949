"""``bct-onnx sensitivity``: where the error comes from, ingredient by ingredient, pass by pass, tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bct_onnx.cli import options
from bct_onnx.cli.bench import parse_shape

if TYPE_CHECKING:
    from bct_onnx.pipeline import Pipeline

WAYS = ("ingredient", "pass", "tensor")


def sensitivity(
    model: options.Model,
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
    passes: options.Passes = None,
    target: options.Target = None,
    task: options.MaybeTask = None,
    data: options.MaybeData = None,
    tokenizer: options.Tokenizer = None,
    text: options.Text = "",
    label: options.Label = None,
    limit: options.Limit = None,
    max_length: options.MaxLength = 128,
    batch: options.Batch = 32,
    calibrate: options.Calibrate = None,
    column: options.Column = None,
    shape: Annotated[str, typer.Option(metavar="BxS", help="Batch and sequence that are timed.")] = "8x128",
    rounds: Annotated[int, typer.Option(min=0, help="Timed runs per model, interleaved; 0 times nothing.")] = 10,
    threads: options.Threads = 1,
    as_json: options.AsJson = False,
    plot: options.Plot = None,
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
    from bct_onnx.tasks.catalogue import load_task
    from bct_onnx.yardstick import Measuring

    _refuse(by, only, top, task, data)
    if plot is not None:
        picture.check(plot)
    pipeline, runtime = choose(preset=preset, passes=passes, target=target)
    name = preset or ("passes" if passes else None)
    whole = {name: pipeline} if name else {}
    parts = chosen(only or []) | whole if by == "ingredient" else {by: pipeline}
    parts = _with_data(parts, options.calibration(model, calibrate, tokenizer, column))
    loaded = None
    if task is not None and data is not None:
        loaded = load_task(
            task,
            data,
            tokenizer or model.parent,
            text=options.listed(text),
            label=label,
            max_length=max_length,
            limit=limit,
        )
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


def _with_data(parts: dict[str, Pipeline], given: Mapping[str, Any]) -> dict[str, Pipeline]:
    """The pipelines with the user's data for those of them that calibrate."""
    from bct_onnx.recipe import with_data

    calibrating = [name for name, one in parts.items() if any(each.name == "calibrate" for each in one)]
    return parts | {name: with_data(parts[name], **given) for name in calibrating or parts}
