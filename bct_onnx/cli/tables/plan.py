"""A plan as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bct_onnx.cli.tables.cells import console, grid

if TYPE_CHECKING:
    from rich.table import Table

    from bct_onnx.study.allocation import Allocation
    from bct_onnx.study.allocation.search import Try


def print_plan(allocation: Allocation, tries: Sequence[Try], output: Path | None) -> None:
    """Print what each tensor gets, and what is predicted of the whole."""
    out = console()
    out.print(_tensors(allocation))
    least, most = map(allocation.table.ratio, reversed(allocation.table.reachable))
    size = f"{allocation.ratio:.2f}x smaller, {allocation.bits / allocation.table.parameters:.3f} bits per parameter"
    out.print(f"\n  size       {size} (of {least:.2f}x to {most:.2f}x)")
    out.print(
        f"  noise      {allocation.noise:.3g} {allocation.table.unit} by weights, on {allocation.table.source}",
        markup=False,
    )
    if allocation.table.coverage:
        out.print(f"  unseen     {allocation.table.coverage}", markup=False)
    for each in tries:
        out.print(f"  tried      {each.ratio:.2f}x: {_figures(each)}")
    if output is not None:
        out.print(f"  wrote      {output}", markup=False)


def _figures(tried: Try) -> str:
    """The score and how much worse it is, where there is one, and the distance of the outputs."""
    distance = f"{tried.figures.sqnr_db:.1f} dB"
    for name, score in tried.figures.metrics.items():
        return f"{name} {score:.2f}, worse by {tried.drop:.2f}, {distance}"
    return distance


def _tensors(allocation: Allocation) -> Table:
    table = grid("  tensor", ("values", "format", "bits", "noise", "share"))
    for item, option in allocation.pairs:
        share = 100 * option.noise / allocation.noise if allocation.noise else 0.0
        figures = (f"{option.bits / item.values:.2f}", f"{option.noise:.1e}", f"{share:.1f} %")
        table.add_row(f"  {item.name}", f"{item.values:,}", str(option).replace(", ", "\n"), *figures)
    return table
