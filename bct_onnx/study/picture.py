"""Studies as pictures: bars of errors, and lines of size against score. The only place that needs matplotlib, the extra
`plot`."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bct_onnx.errors import OutputError, UsageError
from bct_onnx.figures import decibels
from bct_onnx.graph.names import names_of
from bct_onnx.study import tradeoff
from bct_onnx.study.result import Row, Sensitivity
from bct_onnx.tasks.extras import extra

COLOURS = {"ours": "#b03a2e", "nearest": "#4878a8", "shift, mse": "#6a9a58", "shift, max": "#b5c98a"}
GREYS = ("#555555", "#777777", "#999999", "#bbbbbb")
MARKERS = "osD^v<>PX*hpd8"

WORST = 0.85
"""The axis ends at this share of the score of fp32 (of a perplexity, at its inverse squared): what is worse is of no
use, and would leave no room for the rest."""

KINDS = (".png", ".svg", ".pdf")
MOST = 40
"""Bars that can still be read."""


def check(file: Path) -> None:
    """Find out before any work whether a picture can be made there.

    Raises:
        UsageError: matplotlib is missing, the ending is not known, or the folder does not exist.
    """
    if file.suffix.lower() not in KINDS:
        raise UsageError(f"'{file.name}' is no name of a picture", where="--plot", fix=f"end it in {', '.join(KINDS)}")
    if not file.absolute().parent.is_dir():
        raise UsageError("the folder of the picture does not exist", where=f"--plot {file}")
    extra("matplotlib", of="plot")


def draw_parts(sensitivity: Sensitivity, file: Path) -> None:
    """Draw the error of the outputs of each candidate, in percent of the outputs, as bars with their SQNR.

    Raises:
        UsageError: As `check`.
        OutputError: The file cannot be written.
    """
    rows = [row for row in sensitivity.rows if row.figures is not None][:MOST]
    with _figure_in(file, (9, 1.2 + 0.3 * len(rows))) as figure:
        axes = figure.add_subplot()
        bars = axes.barh(names_of(rows), list(map(_percent, rows)), color="#4878a8")
        axes.bar_label(bars, [decibels(row.figures.sqnr_db) for row in rows if row.figures is not None], padding=3)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel(
            f"error of the outputs, root mean square, in % of the outputs ({sensitivity.comparison.source})"
        )


def draw_sizes(frontier: tradeoff.Frontier, file: Path) -> None:
    """Draw ratio by parameters against the first score; a dashed line is fp32. A perplexity has a logarithmic axis.

    Raises:
        UsageError: As `check`.
        OutputError: The file cannot be written.
    """
    with _figure_in(file, (10, 5.5)) as figure:
        axes = figure.add_subplot()
        _add_series(axes, frontier)
        axes.set_xlabel("times smaller by parameters")
        axes.set_ylabel(frontier.metric)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(frameon=False, fontsize=8, loc="outside right upper")


@contextlib.contextmanager
def _figure_in(file: Path, size: tuple[float, float]) -> Iterator[Any]:
    """A figure of matplotlib, of a size in inches, which is written at the end; the same picture is the same file.

    Raises:
        UsageError: As `check`.
        OutputError: The file cannot be written.
    """
    check(file)
    with extra("matplotlib", of="plot").rc_context({"svg.hashsalt": "bct-onnx", "svg.fonttype": "none"}):
        figure = extra("matplotlib.figure", of="plot").Figure(figsize=size, layout="constrained")
        yield figure
        try:
            figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix.lower() == ".svg" else {})
        except OSError as error:
            raise OutputError("the picture could not be written", where=str(file), why=error.strerror or "") from error


def _add_series(axes: Any, frontier: tradeoff.Frontier) -> None:
    series: dict[str, list[tuple[float, float]]] = {}
    for row in frontier.rows:
        score = row.metric(frontier.metric)
        if row.ratio is not None and score is not None:
            series.setdefault(_series(row), []).append((row.ratio, score))
    others, lines = iter(itertools.cycle(MARKERS)), iter(itertools.cycle(GREYS))
    tools = {row.name for row in frontier.rows if row.group == "others"}
    for name, points in series.items():
        ratios, scores = zip(*sorted(points), strict=True)
        if name == "fp32":
            axes.axhline(scores[0], color="#444444", linestyle="--", linewidth=1, label=name)
        elif name in tools:
            axes.plot(ratios, scores, next(others), color="#8a6fae", label=name, markersize=5)
        else:
            axes.plot(ratios, scores, "o-", color=COLOURS.get(name) or next(lines), label=name, markersize=4)
    _limit(axes, frontier.metric, series)


def _series(row: tradeoff.Row) -> str:
    """Rows that a line joins."""
    if row.group == "shift":
        return f"shift, {row.name.rpartition(', ')[2]}"
    if row.group == "others":
        return row.name
    return row.group


def _limit(axes: Any, metric: str, series: dict[str, list[tuple[float, float]]]) -> None:
    is_perplexity = metric == "perplexity"
    if is_perplexity:
        axes.set_yscale("log")
    if "fp32" not in series:
        return
    (_, fp32), *_ = series["fp32"]
    scores = [score for _, score in itertools.chain.from_iterable(series.values())]
    if is_perplexity and max(scores) > fp32 / WORST**2:
        axes.set_ylim(top=fp32 / WORST**2)
    elif not is_perplexity and min(scores) < fp32 * WORST:
        axes.set_ylim(bottom=fp32 * WORST)


def _percent(row: Row) -> float:
    noise = math.nan if row.figures is None else row.figures.noise
    if math.isfinite(noise):
        return 100 * math.sqrt(noise)
    return 0.0
