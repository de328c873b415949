"""A frontier as a picture: ratio against score, a line per group."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from bct_onnx.errors import OutputError
from bct_onnx.frontier.result import Frontier, Row
from bct_onnx.sensitivity.picture import check

COLOURS = {"ours": "#b03a2e", "nearest": "#4878a8", "shift": "#6a9a58", "others": "#8a6fae", "fp32": "#444444"}
WITHOUT = "#999999"


def draw(found: Frontier, file: Path) -> None:
    """Draw ratio by parameters against the first score; a dashed line is fp32. A perplexity has a logarithmic axis.

    Raises:
        UsageError: As `bct_onnx.sensitivity.picture.check`.
        OutputError: The file cannot be written.
    """
    check(file)
    style = {"svg.hashsalt": "bct-onnx", "svg.fonttype": "none"}  # the same picture is the same file
    with importlib.import_module("matplotlib").rc_context(style):
        figure = importlib.import_module("matplotlib.figure").Figure(figsize=(9, 5.5), layout="constrained")
        axes = figure.add_subplot()
        groups = dict.fromkeys(row.group for row in found.rows)
        for group in groups:
            _add(axes, found, group)
        axes.set_xlabel("times smaller by parameters")
        axes.set_ylabel(found.metric)
        if found.metric == "perplexity":
            axes.set_yscale("log")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        try:
            figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix.lower() == ".svg" else {})
        except OSError as error:
            raise OutputError("the picture could not be written", where=str(file), why=error.strerror or "") from error


def _add(axes: Any, found: Frontier, group: str) -> None:
    points = sorted(_points(found, group), key=lambda point: point[:2])
    if not points:
        return
    colour = COLOURS.get(group, WITHOUT)
    if group == "fp32":
        axes.axhline(points[0][1], color=colour, linestyle="--", linewidth=1, label=group)
        return
    ratios, scores = [point[0] for point in points], [point[1] for point in points]
    axes.plot(ratios, scores, "o" if group == "others" else "o-", color=colour, label=group, markersize=4)
    if group == "others":
        for ratio, score, row in points:
            axes.annotate(row.name, (ratio, score), xytext=(4, 4), textcoords="offset points", fontsize=7)


def _points(found: Frontier, group: str) -> list[tuple[float, float, Row]]:
    rows = [(row.ratio, row.metric(found.metric), row) for row in found.rows if row.group == group]
    return [(ratio, score, row) for ratio, score, row in rows if ratio is not None and score is not None]
