"""Everything that is known of one tensor, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from bct_onnx.cli.tables.cells import console, grid
from bct_onnx.figures import decibels, megabytes, number

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
    columns = list(filter(None, (before, after)))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=after is not None)
    for heading in ("", "as exported", "outliers moved")[: 1 + len(columns)]:
        table.add_column(heading, overflow="fold")
    for cells in zip(*(_cells(spread, axes) for spread in columns), strict=True):
        table.add_row(f"  {cells[0][0]}", *(cell for _, cell in cells))
    return table


def _cells(spread: Spread, axes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """What is told of the values, by name."""
    yield "range", f"{spread.minimum:.4g} to {spread.maximum:.4g}"
    yield "root mean square", f"{spread.rms:.4g}"
    yield "largest over it", f"{spread.largest:.1f}"
    if spread.kurtosis is not None:
        yield "kurtosis (normal: 3)", f"{spread.kurtosis:.2f}"
    for axis, outliers in enumerate(spread.outliers):
        name = axes[axis] if axis < len(axes) else f"axis {axis}"
        yield f"{name} that stand out", ", ".join(f"{index}: {times:.1f}x" for index, times in outliers) or "half are 0"


def _formats(explanation: Explanation) -> Table:
    table = grid("  format", ("bits/weight", "weight dB", "weighted dB", "outputs dB", "KL nats"))
    stored = explanation.stored
    is_tried = stored is not None and any(trial.weight == stored.weight for trial in explanation.trials)
    for row in explanation.trials if stored is None or is_tried else (stored, *explanation.trials):
        weight, outputs = row.weight, row.figures
        assert weight is not None and outputs is not None
        mark = "*" if stored is not None and weight == stored.weight else " "
        weighted = "-" if explanation.measured is None else decibels(weight.weighted_db, "")
        text = row.text.partition(": ")[2].partition(",")[0]
        own = (f"{weight.bits:.2f}", decibels(weight.sqnr_db, ""), weighted)
        table.add_row(f"{mark} {text}", *own, decibels(outputs.sqnr_db, ""), number(outputs.kl, ".2g"))
    return table
