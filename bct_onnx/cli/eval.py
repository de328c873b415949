"""``bct-onnx eval``: models side by side on real data: scores, distance from the first model, size and time."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bct_onnx.cli import options

if TYPE_CHECKING:
    import onnxruntime as ort
    from rich.table import Table

    from bct_onnx.tasks.evaluate import Score
    from bct_onnx.tasks.feeding import Cached
    from bct_onnx.tasks.tokens import Batch


def evaluate(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="ONNX files; the first is the reference.")],
    *,
    task: options.Task,
    data: options.Data,
    tokenizer: options.Tokenizer = None,
    text: options.Text = "",
    label: options.Label = None,
    pooling: Annotated[
        str | None,
        typer.Option(metavar="mean|first|last", help="similarity: by default as the model's folder says, else mean."),
    ] = None,
    cache_step: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="perplexity: also N tokens at a time through the key-value cache."),
    ] = None,
    batch: options.Batch = 32,
    limit: options.Limit = None,
    max_length: options.MaxLength = 128,
    threads: options.Threads = 1,
    metric: Annotated[
        str | None, typer.Option(metavar="NAME", help="What 'worse by' and --max-drop go by; by default the first.")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Exit with 1 when a model is worse than the first by more: points (of 100); perplexity: percent.",
        ),
    ] = None,
    min_ratio: Annotated[
        float | None,
        typer.Option(
            metavar="R", help="Exit with 1 when a model's parameters (but the first's) are not R times smaller."
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Score models on real data. Needs the extra: pip install 'bct-onnx[eval]'.

    classification: accuracy, F1, Matthews. regression, similarity (pooled embeddings, cosine): Spearman, Pearson.
    token-classification: F1, precision, recall of entities. All x 100. perplexity: per token; a text is tokenized
    whole and cut into windows, each predicted from its own start.

    Beside the scores, which saturate: SQNR (dB) of the outputs from the first model's, KL divergence (nats) of its
    distribution, and how often the largest logit is the same.
    """
    from bct_onnx.errors import UsageError
    from bct_onnx.tasks.catalogue import load_task
    from bct_onnx.tasks.evaluate import evaluate as run

    if cache_step is not None and task != "perplexity":
        raise UsageError("only perplexity goes through a cache", where="--cache-step", fix="leave it out")
    folder = tokenizer or models[0].parent
    chosen = load_task(
        task, data, folder, text=options.listed(text), label=label, max_length=max_length, limit=limit, pooling=pooling
    )
    entries = _entries(models, threads, cache_step)
    scores = run({name: entry.runner for name, entry in entries.items()}, chosen, batch=batch, track=_with_progress)
    result = _result(task, data, entries, scores, metric)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        _print(result)
    _gate(result, max_drop, min_ratio)


@dataclass(frozen=True)
class _Entry:
    """One row of the table: a model, loaded, and how to run it."""

    path: Path
    runner: ort.InferenceSession | Cached
    load_s: float


def _entries(models: Sequence[Path], threads: int, cache_step: int | None) -> dict[str, _Entry]:
    from bct_onnx.errors import UsageError
    from bct_onnx.runtime.inputs import cache_names
    from bct_onnx.runtime.session import session
    from bct_onnx.tasks.feeding import Cached

    entries: dict[str, _Entry] = {}
    for path in dict.fromkeys(models):
        start = time.perf_counter()
        opened = session(path, threads=threads)
        seconds = time.perf_counter() - start
        entries[str(path)] = _Entry(path, opened, seconds)
        if cache_step is not None and cache_names(opened):
            entries[f"{path} (cache, {cache_step})"] = _Entry(path, Cached(opened, cache_step), seconds)
    if cache_step is not None and not any(isinstance(entry.runner, Cached) for entry in entries.values()):
        fix = "export one with a cache (bct-onnx export --cache), or leave --cache-step out"
        raise UsageError("no model has a key-value cache", where="--cache-step", fix=fix)
    return entries


def _with_progress(batches: Sequence[Batch]) -> Iterator[Batch]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(batches, "evaluating", console=console, transient=True, disable=not console.is_terminal)


def _result(
    task: str, data: str, entries: Mapping[str, _Entry], scores: Mapping[str, Score], metric: str | None
) -> dict[str, Any]:
    """Everything measured, in the form of the JSON output, which has no infinity and no NaN."""
    from bct_onnx.errors import UsageError
    from bct_onnx.graph.load import size

    first = next(iter(scores.values()))
    main = metric or next(iter(first.metrics))
    if main not in first.metrics:
        raise UsageError(f"there is no metric '{main}'", where="--metric", fix=f"use {', '.join(first.metrics)}")
    rows = []
    for (model, score), bits in zip(scores.items(), _bits_per_weight(entries.values()), strict=True):
        away = score.deviation
        rows.append(
            {
                "model": model,
                "bytes": size(entries[model].path),
                "bits_per_weight": bits,
                "ratio": 32 / bits if bits else 1.0,
            }
            | {"metrics": {name: _finite(value) for name, value in score.metrics.items()}}
            | {"drop": _finite(_drop(task, first.metrics[main], score.metrics[main]))}
            | {"exact": away is not None and away.sqnr_db == math.inf}
            | {name: _finite(getattr(away, name, None)) for name in ("sqnr_db", "kl", "agreement")}
            | {"load_s": entries[model].load_s, "batch_ms": score.batch_ms, "seconds": score.seconds}
            | {"times_faster": first.seconds / score.seconds}
        )
    unit = "percent" if task == "perplexity" else "points"
    return {
        "task": task, "data": data, "metric": main, "drop_unit": unit, "sequences": first.sequences, "models": rows
    }  # fmt: skip


def _drop(task: str, first: float, this: float) -> float:
    """How much worse: points of a score, percent of a perplexity (of which less is better)."""
    return 100.0 * (this / first - 1.0) if task == "perplexity" else first - this


def _bits_per_weight(entries: Iterable[_Entry]) -> Iterator[float]:
    """Stored bits per parameter. Another tool's packed codes do not tell their number: the first model's counts."""
    from bct_onnx.graph.inventory import PARAMETERS, inventory
    from bct_onnx.graph.load import load

    counted: dict[Path, float] = {}
    parameters = 0
    for entry in entries:
        if entry.path not in counted:
            model = load(entry.path)
            one = inventory(model)
            parameters = parameters or one.parameters
            packed = any(weight.dtype in ("UINT8", "INT8") and weight.kind != "index" for weight in one.weights)
            known = PARAMETERS in model.metadata_props or not packed
            counted[entry.path] = one.bits_per_weight if known else 8 * one.nbytes / parameters
        yield counted[entry.path]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _print(result: dict[str, Any]) -> None:
    from bct_onnx.cli.tables import console

    out = console()
    out.print(table(result))
    out.print(f"\n{result['task']}, {result['sequences']} sequences of {result['data']}", markup=False)
    if len(result["models"]) > 1:
        out.print(
            f"worse by: {result['drop_unit']} of {result['metric']}; SQNR, KL, same: from the first model's outputs"
        )


def table(result: dict[str, Any]) -> Table:
    """One row per model; with three metrics and names that can be folded it fits 100 columns."""
    from rich.table import Table

    models = result["models"]
    metrics = list(models[0]["metrics"])
    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    made.add_column("model", overflow="fold")
    digits = ".3f" if result["drop_unit"] == "percent" else ".2f"
    worse = "worse\n%" if result["drop_unit"] == "percent" else "worse\nby"
    compared = ("SQNR\ndB", "KL\nnats", "same\n%") if len(models) > 1 else ()
    for name in ("\nMB", "\nratio", "bits/\nweight", *(_HYPHENS.get(name, f"\n{name}") for name in metrics)):
        made.add_column(name, justify="right", no_wrap=True)
    for name in (*([worse] if compared else []), *compared, "load\ns", "ms/\nbatch", "times\nfaster"):
        made.add_column(name, justify="right", no_wrap=True)
    for name, row in zip(_short([row["model"] for row in models]), models, strict=True):
        size = (f"{row['bytes'] / 1e6:.2f}", f"{row['ratio']:.2f}", f"{row['bits_per_weight']:.2f}")
        scores = (_number(row["metrics"][metric], digits, "nan") for metric in metrics)
        times = (f"{row['load_s']:.2f}", f"{row['batch_ms']:.1f}", f"{row['times_faster']:.2f}")
        away = _away(row, first=row is models[0]) if compared else ()
        made.add_row(name, *size, *scores, *away, *times)
    return made


_HYPHENS = {
    "accuracy": "accu-\nracy",
    "matthews": "Mat-\nthews",
    "spearman": "Spear-\nman",
    "pearson": "Pear-\nson",
    "perplexity": "perple-\nxity",
    "precision": "preci-\nsion",
}
"""Headings of two lines keep the table within 100 columns."""


def _away(row: dict[str, Any], *, first: bool) -> tuple[str, ...]:
    """How much worse, and how far from the first model."""
    if first:
        return ("", "", "", "")
    sqnr = "exact" if row["exact"] else _number(row["sqnr_db"], ".1f")
    same = "-" if row["agreement"] is None else f"{100 * row['agreement']:.2f}"
    return _number(row["drop"], ".2f", "nan"), sqnr, _number(row["kl"], ".2g"), same


def _number(value: float | None, form: str, missing: str = "-") -> str:
    return missing if value is None else format(value, form)


def _short(models: Sequence[str]) -> list[str]:
    """Paths without the folder they share, and without the ending they all have."""
    shared = os.path.commonpath([Path(model).absolute().parent for model in models])
    return [os.path.relpath(model, shared).replace(".onnx", "") for model in models]


def _gate(result: dict[str, Any], max_drop: float | None, min_ratio: float | None) -> None:
    """Raise for every model after the first that misses a gate."""
    from bct_onnx.errors import GateError

    metric, unit = result["metric"], result["drop_unit"]
    missed: dict[str, None] = {}
    for row in result["models"][1:]:
        drop, ratio = row["drop"], row["ratio"]
        if max_drop is not None and (drop is None or drop > max_drop):
            worse = "is not a number" if drop is None else f"is {drop:.3f} {unit} worse than the first model's"
            missed[f"{row['model']}: its {metric} {worse}, --max-drop is {max_drop:g}"] = None
        if min_ratio is not None and ratio < min_ratio:
            missed[f"{row['model']}: its parameters are {ratio:.2f} times smaller, --min-ratio is {min_ratio:g}"] = None
    if missed:
        raise GateError("a gate is missed", why="; ".join(missed))
