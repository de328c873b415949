"""A study of sensitivity as text."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from bct_onnx.cli.tables.cells import console, grid
from bct_onnx.figures import decibels, number, percent
from bct_onnx.runtime.latency import cpu_features

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.table import Table

    from bct_onnx.runtime.latency import Speedup
    from bct_onnx.study.comparison import Figures
    from bct_onnx.study.result import Row, Sensitivity, Weight

_REASONS = 3  # lines of what stayed float per row, before "and N more"


def print_result(study: Sensitivity) -> None:
    """Print one study."""
    out = console()
    out.print(table(study))
    for line in _notes(study):
        out.print(line, markup=False)


def table(study: Sensitivity) -> Table:
    """One line per row, and what cannot be told of any row left out."""
    columns: dict[str, list[str]] = {}
    for heading, cell in _columns(study):
        cells = list(map(cell, study.rows))
        if any(cells):
            columns[heading] = cells
    first, *others = columns
    table = grid(first, others)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def _columns(study: Sensitivity) -> Iterator[tuple[str, Callable[[Row], str]]]:
    main = next(iter(study.comparison.scores), None)
    yield f"\n{study.by}", lambda row: row.name
    if study.by == "tensor":
        yield "\nused by", _of_weight(lambda weight: weight.used_by)
        yield "\nshape", _of_weight(lambda weight: "x".join(map(str, weight.shape)))
        yield "bits/\nweight", _of_weight(lambda weight: f"{weight.bits:.2f}")
        yield "weight\ndB", _of_weight(lambda weight: decibels(weight.sqnr_db, ""))
        yield "weighted\ndB", _of_weight(lambda weight: decibels(weight.weighted_db, ""))
    else:
        yield "\nplaces", lambda row: str(row.places or "-")
        yield "left\nfloat", lambda row: str(len(row.declined) or "-")
    yield "SQNR\ndB", _of(lambda figures: decibels(figures.sqnr_db, ""))
    if study.by == "pass":
        yield "share of\nerror %", lambda row: percent(row.share, ".1f", "-")
    yield "KL\nnats", _of(lambda figures: number(figures.kl, ".2g", ""))
    yield "same\n%", _of(lambda figures: percent(figures.agreement, ".2f"))
    if main is not None:
        unit = "%" if study.comparison.drop_unit == "percent" else "by"
        yield f"\n{main}", _of(lambda figures: f"{figures.metrics[main]:.2f}")
        yield f"worse\n{unit}", _of(lambda figures: number(figures.drop, ".2f", ""))
    if study.by != "tensor":
        yield "\nratio", lambda row: f"{row.ratio:.2f}"
    yield "x\nmedian", _of_times(lambda faster: f"{faster.of_medians:.2f}")
    yield "x\nminimum", _of_times(lambda faster: f"{faster.of_minima:.2f}")


def _of(cell: Callable[[Figures], str]) -> Callable[[Row], str]:
    return lambda row: "" if row.figures is None else cell(row.figures)


def _of_weight(cell: Callable[[Weight], str]) -> Callable[[Row], str]:
    return lambda row: "" if row.weight is None else cell(row.weight)


def _of_times(cell: Callable[[Speedup], str]) -> Callable[[Row], str]:
    return _of(lambda figures: "" if figures.faster is None else cell(figures.faster))


def _notes(study: Sensitivity) -> Iterator[str]:
    comparison = study.comparison
    task = comparison.measuring.task
    yield ""
    if task is None:
        yield f"outputs compared on {comparison.source}; target {study.target}"
    else:
        scores = ", ".join(f"{name} {value:.2f}" for name, value in comparison.scores.items())
        yield f"fp32 {scores}: {comparison.measuring.name}, {len(task.tokens.ids)} sequences of {comparison.source}"
        yield f"worse by {comparison.drop_unit}; SQNR, KL, same: from the outputs of fp32; target {study.target}"
    if comparison.timed_shape is not None:
        size = "x".join(map(str, comparison.timed_shape))
        setting = f"{comparison.measuring.rounds} interleaved rounds, threads {comparison.measuring.threads}"
        yield f"x: times faster than fp32 at {size}, {setting}; {cpu_features().model}, {cpu_features().int8}"
    for name, reason in study.left_out:
        yield f"left out: {name}, {reason}"
    if study.by != "tensor":
        for row in study.rows:
            yield from _left_float(row)


def _left_float(row: Row) -> Iterator[str]:
    reasons = Counter(declined.reason for declined in row.declined).most_common()
    for reason, count in reasons[:_REASONS]:
        yield f"left float by {row.name}: {count} x {reason}"
    if len(reasons) > _REASONS:
        yield f"left float by {row.name}: and {len(reasons) - _REASONS} more reasons (--json)"
