"""Everything that is known of one tensor, as text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.table import Table

from bct_onnx.cli.tables.report import console, megabytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bct_onnx.study.distribution import Spread
    from bct_onnx.study.one_tensor import Explanation


def print_tensor(explanation: Explanation, on: str) -> None:
    """Print everything that is known of one tensor; ``on`` says what outputs were compared on."""
    out = console()
    for line in _head(explanation):
        out.print(line, markup=False)
    out.print(_spreads(explanation.exported, explanation.prepared, explanation.axes))
    if explanation.source:
        out.print(f"\nmultiplied by {explanation.source}", markup=False)
        if explanation.measured is None:
            out.print("not measured: the pipeline does not calibrate")
        else:
            out.print(_spreads(explanation.measured, explanation.moved, ("channels",)))
    if explanation.trials or explanation.stored:
        out.print(f"\nthis tensor alone in few bits; outputs compared on {on}", markup=False)
        out.print(_formats(explanation))
        out.print("* what the pipeline does" if explanation.stored else "the pipeline leaves it float")
    out.print("\nwhat the passes say" if explanation.said else "\nno pass of the pipeline that may lose has seen it")
    for remark in explanation.said:
        where = "" if remark.name == explanation.name else f"  ({remark.name})"
        fate = "" if remark.changed else "not done: "
        out.print(f"  {remark.by:<22} {fate}{remark.text}{where}", markup=False)


def _head(explanation: Explanation) -> Iterator[str]:
    shape = "x".join(map(str, explanation.shape))
    size = f"{megabytes(explanation.nbytes)}, {100 * explanation.share:.1f} % of the parameters"
    yield f"{explanation.name}: {explanation.kind}, {explanation.dtype} {shape}, {size}"
    for operator, name in explanation.users:
        yield f"  used by {operator} {name}"
    yield ""


def _spreads(before: Spread, after: Spread | None, axes: tuple[str, ...]) -> Table:
    """One column, or two if something moved outliers."""
    columns = [before] if after is None else [before, after]
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=after is not None)
    for heading in ("", "as exported", "outliers moved")[: 1 + len(columns)]:
        grid.add_column(heading, overflow="fold")
    grid.add_row("  range", *(f"{spread.minimum:.4g} to {spread.maximum:.4g}" for spread in columns))
    grid.add_row("  root mean square", *(f"{spread.rms:.4g}" for spread in columns))
    grid.add_row("  largest over it", *(f"{spread.largest:.1f}" for spread in columns))
    if before.kurtosis is not None:
        grid.add_row("  kurtosis (normal: 3)", *(f"{spread.kurtosis:.2f}" for spread in columns))
    for number in range(len(before.outliers)):
        name = axes[number] if number < len(axes) else f"axis {number}"
        grid.add_row(f"  {name} that stand out", *(_outliers(spread, number) for spread in columns))
    return grid


def _outliers(spread: Spread, axis: int) -> str:
    return ", ".join(f"{index}: {times:.1f}x" for index, times in spread.outliers[axis]) or "half are 0"


def _formats(explanation: Explanation) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column("  format", no_wrap=True)
    for heading in ("bits/weight", "weight dB", "weighted dB", "outputs dB", "KL nats"):
        grid.add_column(heading, justify="right", no_wrap=True)
    stored = explanation.stored
    is_tried = stored is not None and any(trial.weight == stored.weight for trial in explanation.trials)
    for row in explanation.trials if stored is None or is_tried else (stored, *explanation.trials):
        weight, outputs = row.weight, row.figures
        assert weight is not None and outputs is not None
        mark = "*" if stored is not None and weight == stored.weight else " "
        weighted = "-" if explanation.measured is None else _decibels(weight.weighted_db)
        kl = "-" if outputs.kl is None else f"{outputs.kl:.2g}"
        text = row.text.partition(": ")[2].partition(",")[0]
        own = (f"{weight.bits:.2f}", _decibels(weight.sqnr_db), weighted)
        grid.add_row(f"{mark} {text}", *own, _decibels(outputs.sqnr_db), kl)
    return grid


def _decibels(value: float) -> str:
    if math.isnan(value):
        return "not finite"
    return "exact" if math.isinf(value) else f"{value:.1f}"
