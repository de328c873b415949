"""``bct-onnx eval``: models side by side on real data, with their size and time."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from bct_onnx.tasks.evaluate import Score, Task
    from bct_onnx.tasks.tokens import Batch

TASKS = ("classification", "similarity", "perplexity")


def evaluate(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="ONNX files; the first is the reference.")],
    *,
    task: Annotated[str, typer.Option(metavar="|".join(TASKS), help="What the models are for.")],
    data: Annotated[Path, typer.Option(metavar="FILE", help=".csv, .tsv, .jsonl; perplexity: text or .npz.")],
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of tokenizer.json; by default the first model's.")
    ] = None,
    text: Annotated[str, typer.Option(metavar="COLUMN[,COLUMN]", help="Text column or two, by name or number.")] = "",
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of labels or scores.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Sequences per run.")] = 32,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows or sequences.")] = None,
    max_length: Annotated[int, typer.Option(min=1, help="Tokens per text, or predictions per window.")] = 128,
    threads: Annotated[int, typer.Option(min=0, help="Threads within an operator; 0 leaves it to ORT.")] = 1,
    max_drop: Annotated[
        float | None, typer.Option(metavar="X", help="Exit with 1 when a model's first figure is worse by more.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Score models on real data. Needs the extra: pip install 'bct-onnx[eval]'.

    classification: accuracy, F1 and Matthews, x 100. similarity: mean pooling and cosine; Spearman and Pearson, x 100.
    perplexity: per token; a text is tokenized whole and cut into windows, each predicted from its own start.
    """
    from bct_onnx.runtime.session import session
    from bct_onnx.tasks.evaluate import evaluate as run

    folder = tokenizer or models[0].parent
    chosen = _task(task, data, folder, text=text, label=label, max_length=max_length, limit=limit)
    sessions = {str(model): session(model, threads=threads) for model in models}
    scores = run(sessions, chosen, batch=batch, track=_with_progress)
    result = _result(task, data, scores)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        _print(result)
    if max_drop is not None:
        _check_drops(result, max_drop)


def _task(
    name: str, data: Path, tokenizer: Path, *, text: str, label: str | None, max_length: int, limit: int | None
) -> Task:
    from bct_onnx.errors import UsageError
    from bct_onnx.tasks.classification import Classification
    from bct_onnx.tasks.perplexity import Perplexity
    from bct_onnx.tasks.similarity import Similarity

    columns = tuple(filter(None, text.split(",")))
    if name == "classification":
        return Classification.load(data, tokenizer, text=columns, label=label, max_length=max_length, limit=limit)
    if name == "similarity":
        return Similarity.load(data, tokenizer, text=columns, label=label, max_length=max_length, limit=limit)
    if name == "perplexity":
        return Perplexity.load(data, tokenizer, max_length=max_length, limit=limit)
    raise UsageError(f"unknown task '{name}'", where="--task", fix=f"use {', '.join(TASKS)}")


def _with_progress(batches: Sequence[Batch]) -> Iterator[Batch]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(batches, "evaluating", console=console, transient=True, disable=not console.is_terminal)


def _result(task: str, data: Path, scores: Mapping[str, Score]) -> dict[str, Any]:
    from bct_onnx.graph.load import size

    first = next(iter(scores.values()))
    main = next(iter(first.metrics))
    sign = -1.0 if task == "perplexity" else 1.0  # a drop is a loss of quality, whichever way the figure points
    rows = [
        {
            "model": model,
            "bytes": size(model),
            "metrics": {name: value if math.isfinite(value) else None for name, value in score.metrics.items()},
            "drop": _finite(sign * (first.metrics[main] - score.metrics[main]) or 0.0),
            "batch_ms": score.batch_ms,
            "seconds": score.seconds,
        }
        for model, score in scores.items()
    ]
    return {"task": task, "data": str(data), "metric": main, "sequences": first.sequences, "models": rows}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("model", overflow="fold")
    metrics = list(result["models"][0]["metrics"])
    for name in ("MB", *metrics, "worse by", "ms/batch", "seconds", "x"):
        table.add_column(name, justify="right")
    baseline = result["models"][0]["seconds"]
    for row in result["models"]:
        figures = [*(row["metrics"][name] for name in metrics), row["drop"]]
        times = (f"{row['batch_ms']:.2f}", f"{row['seconds']:.1f}", f"{baseline / row['seconds']:.2f}")
        shown = ("nan" if figure is None else f"{figure:.3f}" for figure in figures)
        table.add_row(row["model"], f"{row['bytes'] / 1e6:.2f}", *shown, *times)
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 160)
    console.print(table)
    console.print(
        f"\n{result['task']}, {result['sequences']} sequences of {result['data']}", markup=False, soft_wrap=True
    )


def _check_drops(result: dict[str, Any], limit: float) -> None:
    from bct_onnx.errors import GateError

    metric = result["metric"]
    for row in result["models"][1:]:
        if row["drop"] is None or row["drop"] > limit:
            why = "is not a number" if row["drop"] is None else f"is {row['drop']:.3f} worse than the first model's"
            raise GateError(f"the {metric} misses --max-drop {limit:g}", where=row["model"], why=f"its {metric} {why}")
