"""Models side by side on labelled data: scores, distance from the first model, size and time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from bct_onnx.errors import GateError, UsageError
from bct_onnx.figures import finite, finite_of, finite_values
from bct_onnx.graph.inventory import PARAMETERS, inventory
from bct_onnx.graph.load import load, size
from bct_onnx.runtime.inputs import cache_names
from bct_onnx.runtime.session import session
from bct_onnx.tasks.evaluate import Score, Task, drop, drop_unit, evaluate
from bct_onnx.tasks.feeding import Cached
from bct_onnx.tasks.tokens import Batch


@dataclass(frozen=True)
class Scoring:
    """What models are scored on, and how.

    Attributes:
        task: The task with its data.
        name: Of the task, as on the command line.
        data: Where its data come from, as on the command line.
        metric: What a drop is of; the task's first when None.
        cache_step: Also so many tokens at a time through the key-value cache, for models that have one.
        batch: Sequences per run.
        threads: Within an operator.
    """

    task: Task
    name: str
    data: str
    metric: str | None = None
    cache_step: int | None = None
    batch: int = 32
    threads: int = 1

    def scores(self, models: Sequence[Path], track: Callable[[Sequence[Batch]], Iterable[Batch]]) -> dict[str, Any]:
        """Everything measured of the models, the first of which is the reference, in the form of the JSON output.

        Raises:
            UsageError: There is no such metric, or no model with a key-value cache.
        """
        entries = _entries(models, self.threads, self.cache_step)
        runners = {name: entry.runner for name, entry in entries.items()}
        scores = evaluate(runners, self.task, batch=self.batch, track=track)
        first = next(iter(scores.values()))
        metric = self.metric or next(iter(first.metrics))
        if metric not in first.metrics:
            raise UsageError(f"there is no metric '{metric}'", where="--metric", fix=f"use {', '.join(first.metrics)}")
        rows: list[dict[str, Any]] = []
        for (model, score), bits in zip(scores.items(), _bits_per_weight(entries.values()), strict=True):
            row = {"model": model, "bytes": size(entries[model].path)} | _stored(bits)
            row |= self._row(score, first, metric)
            row |= {"load_s": entries[model].load_s, "batch_ms": score.batch_ms, "seconds": score.seconds}
            rows.append(row | {"times_faster": first.seconds / score.seconds})
        return {
            "task": self.name,
            "data": self.data,
            "metric": metric,
            "drop_unit": drop_unit(self.name),
            "sequences": first.sequences,
            "models": rows,
        }

    def _row(self, score: Score, first: Score, metric: str) -> dict[str, Any]:
        """Scores and distances from the first model; JSON has no infinity and no NaN."""
        away = score.deviation
        row: dict[str, Any] = {"metrics": finite_values(score.metrics)}
        row["drop"] = finite(drop(self.name, first.metrics[metric], score.metrics[metric]))
        row["exact"] = away is not None and away.sqnr_db == math.inf
        return row | finite_of(away, "sqnr_db", "kl", "agreement")


@dataclass(frozen=True)
class _Entry:
    """One row of the table: a model, loaded, and how to run it."""

    path: Path
    runner: ort.InferenceSession | Cached
    load_s: float


def _entries(models: Sequence[Path], threads: int, cache_step: int | None) -> dict[str, _Entry]:
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


def _stored(bits: float) -> dict[str, float]:
    return {"bits_per_weight": bits, "ratio": 32 / bits if bits else 1.0}


def _bits_per_weight(entries: Iterable[_Entry]) -> Iterator[float]:
    """Stored bits per parameter. Another tool's packed codes do not tell their number: the first model's counts."""
    counted: dict[Path, float] = {}
    parameters = 0
    for entry in entries:
        if entry.path not in counted:
            model = load(entry.path)
            parts = inventory(model)
            parameters = parameters or parts.parameters
            packed = any(weight.dtype in ("UINT8", "INT8") and weight.kind != "index" for weight in parts.weights)
            known = PARAMETERS in model.metadata_props or not packed
            counted[entry.path] = parts.bits_per_weight if known else 8 * parts.nbytes / parameters
        yield counted[entry.path]


def gate(result: Mapping[str, Any], max_drop: float | None, min_ratio: float | None) -> None:
    """Compare every model after the first with what the user asked for.

    Args:
        result: What `Scoring.scores` gave.
        max_drop: Points of the metric, or percent of a perplexity, that a model may be worse.
        min_ratio: Times that its parameters are to be smaller.

    Raises:
        GateError: A model misses one of them.
    """
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
