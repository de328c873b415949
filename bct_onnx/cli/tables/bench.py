"""What ``bct-onnx bench`` found, as tables to read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from bct_onnx.cli.tables.cells import figures, grid
from bct_onnx.figures import counted

if TYPE_CHECKING:
    from bct_onnx.runtime.kernel_costs import Costs

Timed = Callable[[dict[str, Any]], Iterator[tuple[str, dict[str, Any]]]]
RATES = {"texts/s": "texts_per_s", "tokens/s": "tokens_per_s"}
"""Columns of figures by medians that only texts have."""
TIMES = ("median ms", "min ms", "x median", "x min", "x rounds", "quartiles")


def show(result: dict[str, Any]) -> None:
    """Print the result of a comparison."""
    console = wide()
    rows = [row for row in result["models"] if "error" not in row]
    if "texts" in result:
        console.print(_times(result["models"], "threads", _texts, RATES))
        _print_texts(console, result["texts"], rows)
    elif any("decoding" in row for row in rows):
        console.print(_times(result["models"], "what", _decoding))
    else:
        console.print(_times(result["models"], "shape", _latency))
    for row in result["models"]:
        if "error" in row:
            console.print(f"{row['model']} failed: {row['error']}", soft_wrap=True)
    cpu = result["cpu"]
    threads = ", ".join(map(_threads, result["threads"]))
    console.print(f"\nthreads {threads}, rounds {result['rounds']}, CPU {cpu['model']}", soft_wrap=True)
    console.print(f"int8 on this CPU: {cpu['int8']}", soft_wrap=True)
    if any("memory" in row for row in rows):
        console.print(_memory(rows))
    for row in rows:
        if "profile" in row:
            console.print(f"\n{row['model']}", soft_wrap=True)
            console.print(_profile(row["profile"]))
            console.print(budget_line(row["budget"]), soft_wrap=True)
    if any("nodes" in row and "profile" not in row for row in rows):
        console.print(_nodes(rows))


def show_stages(stages: list[dict[str, Any]]) -> None:
    """Print the time per operator after each pass of a lowering."""
    times: list[dict[str, float]] = []
    for stage in stages:
        times.append({operator["op_type"]: operator["ms"] for operator in stage["operators"]})
    rows = grid("ms after", (stage["after"] for stage in stages))
    _add_operators(rows, times, ".2f")

    def add(label: str, figure: Callable[[dict[str, Any]], float | None], form: str) -> None:
        rows.add_row(label, *figures(map(figure, stages), form))

    add("all", lambda stage: stage["total_ms"], ".2f")
    add("nodes that run", lambda stage: _total(stage["operators"], "nodes"), "d")
    add("8-bit products", lambda stage: stage["products_ms"], ".2f")
    add("  of all, %", lambda stage: 100 * stage["share"], ".0f")
    add("  all, x", lambda stage: stage["distance"], ".2f")
    wide().print(rows)


def _add_operators(rows: Table, columns: Sequence[Mapping[str, float]], form: str) -> None:
    """A row for each operator with its figure in each column, the greatest first."""
    for operator in sorted(set().union(*columns), key=lambda name: (-max(at.get(name, 0) for at in columns), name)):
        rows.add_row(operator, *figures((column.get(operator) for column in columns), form))


def show_kernels(costs: Costs, output: Path | None) -> None:
    """Print what the kernels of matrix products cost on this machine, and on those whose tables are shipped."""
    from bct_onnx.runtime.kernel_costs import load, shipped
    from bct_onnx.runtime.tuning import ROWS, rows_of

    lines = grid("us, 768 x 3072 weights", (counted(count, "row") for count in ROWS))
    for machine in (costs, *map(load, shipped())):
        lines.add_row(machine.name)
        for kernel, times in rows_of(machine):
            lines.add_row(f"  {kernel}", *figures(times, ".0f"))
    wide().print(lines)
    print(f"\n{costs.about}")
    if output is not None:
        print(f"wrote {output}")


def wide() -> Console:
    """A console as wide as the terminal, or in a file as wide as its lines are."""
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 1000)


def budget_line(budget: dict[str, Any]) -> str:
    """How much of the time the 8-bit products are."""
    if not budget["products_ms"]:
        return f"no 8-bit products with weights; {budget['total_ms']:.2f} ms in all"
    return (
        f"8-bit products with weights: {budget['products_ms']:.2f} of {budget['total_ms']:.2f} ms"
        f" ({100 * budget['share']:.0f} %); all of it takes {budget['distance']:.2f} times as long as they alone"
    )


def _latency(row: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What was timed of a model, and the times."""
    for time in row["latency"]:
        yield f"{time['batch']}x{time['sequence']}{_with_threads(time, row['latency'])}", time


def _decoding(row: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for run in row["decoding"]:
        threads = _with_threads(run, row["decoding"])
        yield f"first, {run['batch']}x{run['prompt']}{threads}", run["first"]
        yield f"each of {run['tokens']}{threads}", run["token"]


def _texts(row: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for time in row["texts"]:
        yield _threads(time["threads"]), time


def _with_threads(time: dict[str, Any], times: list[dict[str, Any]]) -> str:
    """The number of threads, where several were measured."""
    if len({each["threads"] for each in times}) == 1:
        return ""
    return f", {_threads(time['threads'])} threads"


def _threads(number: int) -> str:
    return str(number) if number else "all"


def _print_texts(console: Console, texts: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """How much of the batches is padding, and which models do not take them whole."""
    order = {"file": "in file order", "shuffled": "shuffled", "sorted": "sorted by length"}[texts["order"]]
    batches = f"{texts['batches']} batches of {texts['batch']}, {order}"
    real = f"{texts['tokens']} tokens are {100 * texts['real']:.1f} % of all positions, the rest is padding"
    console.print(f"\n{texts['texts']} texts of {texts['source']} in {batches}: {real}", soft_wrap=True)
    for row in rows:
        runs = row["texts"][0]["runs"]
        if runs != texts["batches"]:
            why = "it has no mask for padding, or fixed sizes"
            console.print(f"{row['model']} takes them in {runs} runs: {why}", soft_wrap=True)


def _times(
    models: list[dict[str, Any]], what: str, timed: Timed, rates: Mapping[str, str] = MappingProxyType({})
) -> Table:
    rows = grid("model", ("MB", "load s", what, *rates, *TIMES))
    for model in models:
        if "error" in model:
            rows.add_row(model["model"], "failed")
            continue
        head = (model["model"], f"{model['bytes'] / 1e6:.2f}", f"{model['load_s']:.2f}")
        for label, time in timed(model):
            rows.add_row(*head, label, *figures(map(time.get, rates.values()), ".0f"), *_cells(time))
            head = ("", "", "")
    return rows


def _cells(time: dict[str, Any]) -> list[str]:
    rounds = time["times_faster_rounds"]
    medians = (time["median_ms"], time["min_ms"], time["times_faster_median"], time["times_faster_min"])
    return [*figures((*medians, rounds["median"]), ".2f"), f"{rounds['low']:.2f}-{rounds['high']:.2f}"]


def _memory(rows: list[dict[str, Any]]) -> Table:
    headings = ("\nfile", "\nloaded", "\nin use", "\npeak of loading", "\npeak of running")
    lines = grid("\nresident memory, MB", headings)
    for row in rows:
        memory = row["memory"]
        sizes = (row["bytes"], memory["loaded"], memory["in_use"], memory["peak_load"], memory["peak_run"])
        lines.add_row(row["model"], *figures((size / 1e6 for size in sizes), ".1f"))
    return lines


def _profile(operators: list[dict[str, Any]]) -> Table:
    rows = grid("operator", ("nodes", "ms", "%"))
    total = _total(operators, "ms")
    for operator in operators:
        share = 100 * operator["ms"] / total
        rows.add_row(operator["op_type"], str(operator["nodes"]), f"{operator['ms']:.2f}", f"{share:.1f}")
    rows.add_row("all", str(_total(operators, "nodes")), f"{total:.2f}", "100.0")
    return rows


def _nodes(rows: list[dict[str, Any]]) -> Table:
    """A row per operator, a column per model."""
    lines = grid("\nnodes that run", (f"\n{row['model']}" for row in rows))
    counts = [row["nodes"] for row in rows]
    _add_operators(lines, counts, "d")
    lines.add_row("all", *figures((sum(count.values()) for count in counts), "d"))
    return lines


def _total(operators: Iterable[Mapping[str, Any]], figure: str) -> Any:
    """One of the figures of some operators, all together."""
    return sum(operator[figure] for operator in operators)
