"""A study as a bar chart. The only place that needs matplotlib, the extra `plot`."""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bct_onnx.errors import OutputError, UsageError
from bct_onnx.study.result import Row, Sensitivity

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
    _matplotlib("matplotlib")


def draw(sensitivity: Sensitivity, file: Path) -> None:
    """Draw the error of the outputs of each candidate, in percent of the outputs, as bars with their SQNR.

    Raises:
        UsageError: As `check`.
        OutputError: The file cannot be written.
    """
    rows = [row for row in sensitivity.rows if row.figures is not None][:MOST]
    with figure_in(file, (9, 1.2 + 0.3 * len(rows))) as figure:
        axes = figure.add_subplot()
        bars = axes.barh([row.name for row in rows], [_percent(row) for row in rows], color="#4878a8")
        axes.bar_label(bars, [_label(row) for row in rows], padding=3)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel(f"error of the outputs, root mean square, in % of the outputs ({sensitivity.reference.source})")


@contextlib.contextmanager
def figure_in(file: Path, size: tuple[float, float]) -> Iterator[Any]:
    """A figure of matplotlib, of a size in inches, which is written at the end; the same picture is the same file.

    Raises:
        UsageError: As `check`.
        OutputError: The file cannot be written.
    """
    check(file)
    with _matplotlib("matplotlib").rc_context({"svg.hashsalt": "bct-onnx", "svg.fonttype": "none"}):
        figure = _matplotlib("matplotlib.figure").Figure(figsize=size, layout="constrained")
        yield figure
        try:
            figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix.lower() == ".svg" else {})
        except OSError as error:
            raise OutputError("the picture could not be written", where=str(file), why=error.strerror or "") from error


def _percent(row: Row) -> float:
    noise = math.nan if row.figures is None else row.figures.noise
    if math.isfinite(noise):
        return 100 * math.sqrt(noise)
    return 0.0


def _label(row: Row) -> str:
    if row.figures is None or math.isnan(row.figures.sqnr_db):
        return "not finite"
    if math.isinf(row.figures.sqnr_db):
        return "exact"
    return f"{row.figures.sqnr_db:.1f} dB"


def _matplotlib(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(
            "the package 'matplotlib' is not installed",
            where="--plot",
            why=str(error),
            fix="pip install 'bct-onnx[plot]'",
        ) from error
