"""What tables are made of: cells, and grids without lines."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from bct_onnx.figures import number


def console() -> Console:
    """stdout; as wide as its lines where it is no terminal, so that nothing is cut in a file."""
    out = Console(highlight=False, markup=False, soft_wrap=True)
    if out.is_terminal:
        return out
    return Console(highlight=False, markup=False, soft_wrap=True, width=160)


def grid(first: str, others: Iterable[str], *, gap: int = 2) -> Table:
    """An empty table: one column of names, which may be folded, and others of figures, ``gap`` spaces apart."""
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
    table.add_column(first, overflow="fold")
    for heading in others:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def figures(values: Iterable[float | None], form: str, missing: str = "") -> list[str]:
    """A cell for each of some figures, of which some may be missing.

    >>> figures([1.25, None], ".1f", "-")
    ['1.2', '-']
    """
    return [number(value, form, missing) for value in values]
