"""Pieces of HTML: text that is safe in a page, tables, bars, a scatter of points."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Iterable, Sequence


def text(value: object) -> str:
    """A value as text of a page.

    >>> text("a < b & 'c'")
    'a &lt; b &amp; &#x27;c&#x27;'
    """
    return html.escape(str(value))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table that scrolls by itself where the screen is narrow; cells are HTML, the first of a row is its name."""
    names = "".join(f'<th scope="col">{name}</th>' for name in head)
    lines = []
    for first, *others in rows:
        cells = "".join(f"<td>{cell}</td>" for cell in others)
        lines.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    body = "".join(lines)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>'


@dataclasses.dataclass(frozen=True)
class Bar:
    """One line of a chart.

    Attributes:
        name: What it is of.
        values: Lengths of its bars: of the source and of the result, or of one alone.
        words: What stands beside it.
    """

    name: str
    values: tuple[float, ...]
    words: str


def bars(rows: Sequence[Bar]) -> str:
    """Bars from a common zero; where there are two to a line, the first is the source."""
    longest = max((max(row.values) for row in rows), default=0.0) or 1.0
    lines = []
    for row in rows:
        kinds = ("before", "after")[-len(row.values) :]
        drawn = ""
        for kind, value in zip(kinds, row.values, strict=True):
            drawn += f'<i class="{kind}" style="width:{100 * value / longest:.2f}%"></i>'
        lines.append(f'<li><span>{text(row.name)}</span><span class="track">{drawn}</span><b>{row.words}</b></li>')
    return f'<ul class="bars">{"".join(lines)}</ul>'


def stack(parts: Sequence[tuple[str, float]], total: float) -> str:
    """One bar of parts, in colours by their place; ``total`` is what fills the whole width."""
    drawn = ""
    for number, (_, value) in enumerate(parts):
        drawn += f'<i class="part{number % 6}" style="width:{100 * value / total:.3f}%"></i>'
    return f'<div class="stack">{drawn}</div>'


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of a scatter: its name, where it is, and whether it is the one that the page is about."""

    name: str
    x: float
    y: float
    chosen: bool = False


def scatter(points: Sequence[Point], x_name: str, y_name: str) -> str:
    """Points on two axes, as SVG; both from zero."""
    width, height, left, top, bottom = 640.0, 300.0, 46.0, 34.0, 40.0
    most_x = max(point.x for point in points) * 1.15
    low_y = min(0.0, *(point.y for point in points))
    most_y = max(1.0, *(point.y for point in points)) * 1.15
    drawn = [f'<path class="axis" d="M{left},{top}V{height - bottom}H{width - 8}"/>']
    for value in _steps(low_y, most_y):
        y = _scaled(value, low_y, most_y, height - bottom, top)
        drawn.append(f'<path class="grid" d="M{left},{y:.1f}H{width - 8}"/>')
        drawn.append(f'<text class="tick" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in _steps(0.0, most_x):
        x = _scaled(value, 0.0, most_x, left, width - 8)
        drawn.append(f'<text class="tick" x="{x:.1f}" y="{height - bottom + 18}" text-anchor="middle">{value:g}</text>')
    for point in points:
        x = _scaled(point.x, 0.0, most_x, left, width - 8)
        y = _scaled(point.y, low_y, most_y, height - bottom, top)
        kind = "chosen" if point.chosen else "other"
        drawn.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="6"/>')
        beside, anchor = (x + 11, "start") if point.chosen else (x - 11, "end")
        place = f'x="{beside:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}"'
        drawn.append(f'<text class="{kind}" {place}>{text(point.name)}</text>')
    drawn.append(f'<text class="name" x="{width - 8}" y="{height - 4}" text-anchor="end">{text(x_name)}</text>')
    drawn.append(f'<text class="name" x="8" y="16">{text(y_name)}</text>')
    title = f"{y_name} by {x_name}"
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{text(title)}">{"".join(drawn)}</svg>'


def _scaled(value: float, low: float, high: float, start: float, end: float) -> float:
    return start + (value - low) / (high - low) * (end - start)


def _steps(low: float, high: float) -> list[float]:
    """Round numbers between two, four or so.

    >>> _steps(0.0, 26.0)
    [0.0, 5.0, 10.0, 15.0, 20.0, 25.0]
    """
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= 0.9 * rough)
    return [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
