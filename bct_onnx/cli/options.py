"""Options that several commands have: each is declared, and read, in the same way everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

TASKS = ("classification", "regression", "similarity", "perplexity", "token-classification")

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="The exported ONNX model; never modified.")]

Preset = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="A named pipeline; the target's by default ('bct-onnx passes' lists them)."),
]
Passes = Annotated[
    str | None, typer.Option(metavar="TEXT", help="A pipeline: 'fuse-gelu,quantize-weights{bits=4 block=32}'.")
]
Recipe = Annotated[Path | None, typer.Option(metavar="FILE.toml", help="Preset or passes, target and options.")]
Target = Annotated[
    str | None,
    typer.Option(metavar="T", help="ort-cpu (default), portable, ort-cuda, webgpu, openvino, qnn; see 'targets'."),
]

Calibrate = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Your data instead of random tokens: .csv, .tsv, .jsonl, .txt or .npz; not what you report on.",
    ),
]
Column = Annotated[
    str | None,
    typer.Option(metavar="COLUMN[,COLUMN]", help="Text column or two of --calibrate, by name or number."),
]
Tokenizer = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of tokenizer.json; by default the model's.")
]

Task = Annotated[str, typer.Option("--task", metavar="|".join(TASKS), help="What the model is for.")]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="FILE|NAME",
        help="The task's: .csv, .tsv, .jsonl, .txt, .npz (token ids), or a data set NAME[/CONFIG][:SPLIT] such as "
        "glue/sst2:validation, or a folder of one.",
    ),
]
MaybeTask = Annotated[
    str | None, typer.Option("--task", metavar="|".join(TASKS), help="Look at its outputs and scores; needs --data.")
]
MaybeData = Annotated[str | None, typer.Option("--data", metavar="FILE|NAME", help="The task's data, as in eval.")]
Text = Annotated[str, typer.Option(metavar="COLUMN[,COLUMN]", help="Text column or two of --data, by name or number.")]
Label = Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of labels, scores or tags of --data.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many rows or windows of --data.")]
MaxLength = Annotated[int, typer.Option(min=1, help="Tokens per text, or predictions per window.")]
Batch = Annotated[int, typer.Option(min=1, help="Sequences of --data per run.")]

Threads = Annotated[int, typer.Option(min=0, help="Threads within an operator; 0 leaves it to ORT.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
Plot = Annotated[
    Path | None, typer.Option(metavar="FILE.png|svg", help="Also a picture; pip install 'bct-onnx[plot]'.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def listed(text: str | None) -> tuple[str, ...]:
    """The names in an option that takes several.

    >>> listed("premise,hypothesis"), listed(""), listed(None)
    (('premise', 'hypothesis'), (), ())
    """
    return tuple(filter(None, (text or "").split(",")))


def calibration(model: Path, data: Path | None, tokenizer: Path | None, column: str | None) -> dict[str, Any]:
    """Options for calibrate passes; the tokenizer beside the model where texts need one.

    >>> options = calibration(Path("model.onnx"), Path("ids.npz"), Path("folder"), None)
    >>> options["data"].name, options["tokenizer"]
    ('ids.npz', None)

    Raises:
        UsageError: Columns of no data.
    """
    from bct_onnx.errors import UsageError

    if data is None and column is not None:
        raise UsageError("--column needs --calibrate", fix="add --calibrate FILE, or leave it out")
    if data is None or data.suffix.lower() == ".npz":  # token ids
        tokenizer = None
    elif tokenizer is None and (model.parent / "tokenizer.json").is_file():
        tokenizer = model.parent
    return {"data": data, "tokenizer": tokenizer, "column": listed(column) or None}
