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


def print_tensor(found: Explanation, on: str) -> None:
    """Print everything that is known of one tensor; ``on`` says what outputs were compared on."""
    out = console()
    for line in _head(found):
        out.print(line, markup=False)
    out.print(_spreads(found.exported, found.prepared, found.axes))
    if found.source:
        out.print(f"\nmultiplied by {found.source}", markup=False)
        if found.measured is None:
            out.print("not measured: the pipeline does not calibrate")
        else:
            out.print(_spreads(found.measured, found.moved, ("channels",)))
    if found.trials or found.stored:
        out.print(f"\nthis tensor alone in few bits; outputs compared on {on}", markup=False)
        out.print(_formats(found))
        out.print("* what the pipeline does" if found.stored else "the pipeline leaves it float")
    out.print("\nwhat the passes say" if found.said else "\nno pass of the pipeline that may lose has seen it")
    for one in found.said:
        where = "" if one.name == found.name else f"  ({one.name})"
        out.print(f"  {one.by:<22} {'' if one.changed else 'not done: '}{one.text}{where}", markup=False)


def _head(found: Explanation) -> Iterator[str]:
    shape = "x".join(map(str, found.shape))
    size = f"{megabytes(found.nbytes)}, {100 * found.share:.1f} % of the parameters"
    yield f"{found.name}: {found.kind}, {found.dtype} {shape}, {size}"
    for operator, name in found.users:
        yield f"  used by {operator} {name}"
    yield ""


def _spreads(before: Spread, after: Spread | None, axes: tuple[str, ...]) -> Table:
    """One column, or two if something moved outliers."""
    columns = [before] if after is None else [before, after]
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=after is not None)
    for heading in ("", "as exported", "outliers moved")[: 1 + len(columns)]:
        made.add_column(heading, overflow="fold")
    made.add_row("  range", *(f"{one.minimum:.4g} to {one.maximum:.4g}" for one in columns))
    made.add_row("  root mean square", *(f"{one.rms:.4g}" for one in columns))
    made.add_row("  largest over it", *(f"{one.largest:.1f}" for one in columns))
    if before.kurtosis is not None:
        made.add_row("  kurtosis (normal: 3)", *(f"{one.kurtosis:.2f}" for one in columns))
    for number in range(len(before.outliers)):
        name = axes[number] if number < len(axes) else f"axis {number}"
        made.add_row(f"  {name} that stand out", *(_outliers(one, number) for one in columns))
    return made


def _outliers(spread: Spread, axis: int) -> str:
    return ", ".join(f"{index}: {times:.1f}x" for index, times in spread.outliers[axis]) or "half are 0"


def _formats(found: Explanation) -> Table:
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column("  format", no_wrap=True)
    for heading in ("bits/weight", "weight dB", "weighted dB", "outputs dB", "KL nats"):
        made.add_column(heading, justify="right", no_wrap=True)
    stored = found.stored
    is_tried = stored is not None and any(one.weight == stored.weight for one in found.trials)
    for row in found.trials if stored is None or is_tried else (stored, *found.trials):
        weight, outputs = row.weight, row.figures
        assert weight is not None and outputs is not None
        mark = "*" if stored is not None and weight == stored.weight else " "
        weighted = "-" if found.measured is None else _decibels(weight.weighted_db)
        kl = "-" if outputs.kl is None else f"{outputs.kl:.2g}"
        text = row.text.partition(": ")[2].partition(",")[0]
        own = (f"{weight.bits:.2f}", _decibels(weight.sqnr_db), weighted)
        made.add_row(f"{mark} {text}", *own, _decibels(outputs.sqnr_db), kl)
    return made


def _decibels(value: float) -> str:
    if math.isnan(value):
        return "not finite"
    return "exact" if math.isinf(value) else f"{value:.1f}"
