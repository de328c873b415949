"""What tables are made of: figures as people read them, and grids without lines."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table


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


def number(value: float | None, form: str, missing: str = "-") -> str:
    """A figure that may be missing."""
    return missing if value is None else format(value, form)


def percent(share: float | None, form: str, missing: str = "") -> str:
    """A share in percent, which may be missing.

    >>> percent(0.1234, ".1f"), percent(None, ".1f", "-")
    ('12.3', '-')
    """
    if share is None:
        return missing
    return format(100 * share, form)


def megabytes(nbytes: int) -> str:
    """A size for people, in units of 10^6 bytes.

    >>> megabytes(11_973_112), megabytes(3_100)
    ('12.0 MB', '3.1 kB')
    """
    if nbytes >= 1e5:
        return f"{nbytes / 1e6:.1f} MB"
    return f"{nbytes / 1e3:.1f} kB"


def decibels(value: float, unit: str = " dB") -> str:
    """A signal to noise ratio.

    >>> decibels(21.46), decibels(math.inf), decibels(math.nan, unit="")
    ('21.5 dB', 'exact', 'not finite')
    """
    if math.isnan(value):
        return "not finite"
    if value == math.inf:
        return "exact"
    return f"{value:.1f}{unit}"
