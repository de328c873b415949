"""A frontier as a picture: ratio against score, a line per group."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from bct_onnx.study.picture import figure_in
from bct_onnx.study.tradeoff.result import Frontier, Row

COLOURS = {"ours": "#b03a2e", "nearest": "#4878a8", "shift, mse": "#6a9a58", "shift, max": "#b5c98a"}
GREYS = ("#555555", "#777777", "#999999", "#bbbbbb")
MARKERS = "osD^v<>PX*hpd8"

WORST = 0.85
"""The axis ends at this share of the score of fp32 (of a perplexity, at its inverse squared): what is worse is of no
use, and would leave no room for the rest."""


def draw(frontier: Frontier, file: Path) -> None:
    """Draw ratio by parameters against the first score; a dashed line is fp32. A perplexity has a logarithmic axis.

    Raises:
        UsageError: As `bct_onnx.study.picture.check`.
        OutputError: The file cannot be written.
    """
    with figure_in(file, (10, 5.5)) as figure:
        axes = figure.add_subplot()
        _add_series(axes, frontier)
        axes.set_xlabel("times smaller by parameters")
        axes.set_ylabel(frontier.metric)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(frameon=False, fontsize=8, loc="outside right upper")


def _add_series(axes: Any, frontier: Frontier) -> None:
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


def _series(row: Row) -> str:
    """Rows that a line joins."""
    if row.group == "shift":
        return f"shift, {row.name.rpartition(', ')[2]}"
    return row.name if row.group == "others" else row.group


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
