"""``bct-onnx bench``: models side by side for speed and size, other tools' results among them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bct_onnx.cli import options

if TYPE_CHECKING:
    import onnxruntime as ort
    from rich.table import Table

    from bct_onnx.runtime.feeds import Feeds

Shape = tuple[int, int]


def bench(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="ONNX files; the first is the baseline.")],
    *,
    batch: Annotated[int, typer.Option(min=1, help="Rows per run.")] = 8,
    seq: Annotated[int, typer.Option(min=1, help="Tokens per row.")] = 128,
    shape: Annotated[
        list[str] | None, typer.Option(metavar="BxS", help="Batch and sequence, instead of both above; repeatable.")
    ] = None,
    threads: options.Threads = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Timed runs per model, interleaved.")] = 10,
    profile: Annotated[bool, typer.Option("--profile", help="Also the time per operator, at the first shape.")] = False,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="TOOL", help="Add what ort-dynamic or ort-nbits4 makes of the first model; repeatable."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure size, load time and latency of models in ONNX Runtime on the CPU.

    Runs are interleaved, so that other load on the machine meets all models alike. `x` is times faster than the first
    model, once by the medians and once by the minima of the rounds. Inputs are random but valid.
    """
    import tempfile

    shapes = [parse_shape(text) for text in shape] if shape else [(batch, seq)]
    with tempfile.TemporaryDirectory(prefix="bct-bench-") as folder:
        lineup = _Lineup(models, threads, shapes)
        for tool in dict.fromkeys(against or ()):
            lineup.add_tool(tool, Path(folder))
        result = lineup.measure(rounds, profile)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        _print(result)


def parse_shape(text: str) -> Shape:
    """Batch and sequence from BxS.

    Raises:
        UsageError: It is written in another way.
    """
    from bct_onnx.errors import UsageError

    match = re.fullmatch(r"([1-9]\d*)[xX]([1-9]\d*)", text)
    if match is None:
        raise UsageError(f"'{text}' is not a shape", where="--shape", fix="write batch x sequence, for example 8x128")
    return int(match[1]), int(match[2])


class _Lineup:
    """The models of one comparison, loaded, with inputs that fit all of them."""

    def __init__(self, models: Sequence[Path], threads: int, shapes: Sequence[Shape]) -> None:
        from bct_onnx.graph.load import load
        from bct_onnx.runtime.feeds import vocabulary

        self._threads, self._shapes, self._first = threads, shapes, models[0]
        self._sessions: dict[str, ort.InferenceSession] = {}
        self._paths: dict[str, Path] = {}
        self._rows: dict[str, dict[str, Any]] = {}
        self._vocabulary = vocabulary(load(models[0]))
        for model in dict.fromkeys(models):
            self._add(str(model), model)

    def add_tool(self, name: str, folder: Path) -> None:
        """Another tool's result from the first model, or its error."""
        from bct_onnx.errors import UsageError
        from bct_onnx.runtime.others import TOOLS, make

        if name not in TOOLS:
            raise UsageError(f"unknown tool '{name}'", where="--against", fix=f"use {' or '.join(TOOLS)}")
        made = make(TOOLS[name], self._first, folder, self._feeds(self._shapes[0]))
        if made.path is None:
            self._rows[name] = {"model": name, "error": made.error}
        else:
            self._add(f"{name} ({made.setting})", made.path)

    def measure(self, rounds: int, with_profile: bool) -> dict[str, Any]:
        """Everything measured, in the form of the JSON output."""
        from dataclasses import asdict

        from bct_onnx.runtime.latency import cpu_features, measure
        from bct_onnx.runtime.profile import profile

        for shape in self._shapes:
            times = measure(self._sessions, self._feeds(shape), rounds=rounds)
            baseline = next(iter(times.values()))
            for label, time in times.items():
                faster = time.speedup_over(baseline)
                self._rows[label]["latency"].append(
                    {"batch": shape[0], "sequence": shape[1], "median_ms": time.median_ms, "min_ms": time.min_ms}
                    | {"times_faster_median": faster.of_medians, "times_faster_min": faster.of_minima}
                )
        if with_profile:
            for label, path in self._paths.items():
                operators = profile(path, self._feeds(self._shapes[0]), threads=self._threads)
                self._rows[label]["profile"] = [asdict(operator) for operator in operators]
        cpu = cpu_features()
        about = {"architecture": cpu.architecture, "model": cpu.model, "flags": cpu.flags, "int8": cpu.int8}
        return {"cpu": about, "threads": self._threads, "rounds": rounds, "models": list(self._rows.values())}

    def _add(self, label: str, path: Path) -> None:
        import time

        from bct_onnx.graph.load import size
        from bct_onnx.runtime.session import session

        start = time.perf_counter()
        self._sessions[label] = session(path, threads=self._threads)
        seconds = time.perf_counter() - start
        self._paths[label] = path
        self._rows[label] = {"model": label, "bytes": size(path), "load_s": seconds, "latency": []}

    def _feeds(self, shape: Shape) -> Feeds:
        from bct_onnx.runtime.feeds import random_feeds

        feeds: Feeds = {}
        for session in self._sessions.values():
            made = random_feeds(session, batch=shape[0], sequence=shape[1], vocab=self._vocabulary)
            feeds = made | feeds  # what the baseline takes, all others take too
        return feeds


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 160)
    table = Table(box=None, pad_edge=False)
    table.add_column("model", overflow="fold")
    for name in ("MB", "load s", "shape", "median ms", "min ms", "x median", "x min"):
        table.add_column(name, justify="right")
    for row in result["models"]:
        if "error" in row:
            table.add_row(row["model"], "failed")
            continue
        head = (row["model"], f"{row['bytes'] / 1e6:.2f}", f"{row['load_s']:.2f}")
        for time in row["latency"]:
            figures = (time["median_ms"], time["min_ms"], time["times_faster_median"], time["times_faster_min"])
            table.add_row(*head, f"{time['batch']}x{time['sequence']}", *(f"{figure:.2f}" for figure in figures))
            head = ("", "", "")
    console.print(table)
    for row in result["models"]:
        if "error" in row:
            console.print(f"{row['model']} failed: {row['error']}", soft_wrap=True)
    cpu = result["cpu"]
    console.print(f"\nthreads {result['threads']}, rounds {result['rounds']}, CPU {cpu['model']}", soft_wrap=True)
    console.print(f"int8 on this CPU: {cpu['int8']}", soft_wrap=True)
    for row in result["models"]:
        if "profile" in row:
            console.print(f"\n{row['model']}", soft_wrap=True)
            console.print(_profile_table(row["profile"]))


def _profile_table(operators: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("operator")
    for name in ("nodes", "ms", "%"):
        table.add_column(name, justify="right")
    total = sum(operator["ms"] for operator in operators)
    for operator in operators:
        share = 100 * operator["ms"] / total
        table.add_row(operator["op_type"], str(operator["nodes"]), f"{operator['ms']:.2f}", f"{share:.1f}")
    table.add_row("all", str(sum(operator["nodes"] for operator in operators)), f"{total:.2f}", "100.0")
    return table
