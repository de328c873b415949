"""A frontier as text: lines of fixed columns, since a row is printed when it is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

from bct_onnx.figures import number, percent

if TYPE_CHECKING:
    from bct_onnx.pipeline import Pipeline
    from bct_onnx.study.tradeoff import Frontier, Job, Row

_COLUMNS = (
    ("ratio", 6),
    ("bits", 6),
    ("MB", 7),
    ("", 12),  # the score, by its name
    ("worse", 7),
    ("SQNR", 6),
    ("KL", 8),
    ("same %", 7),
    ("s", 7),
    ("peak MB", 8),
)


class Lines:
    """Prints rows as they come, the heading before the first that has a score."""

    def __init__(self, jobs: Sequence[Job], out: TextIO) -> None:
        self._width = max([len(job.name) for job in jobs], default=0)
        self._out = out
        self._has_heading = False

    def __call__(self, row: Row) -> None:
        """Print a row."""
        metric = next(iter(row.figures.get("metrics", {})), "")
        if metric and not self._has_heading:
            names = "".join(f"{name or metric:>{width}}" for name, width in _COLUMNS)
            self._print(f"{'':{self._width}}{names}  slowest step")
            self._has_heading = True
        if row.error:
            self._print(f"{row.name:{self._width}}  failed: {row.error}")
            return
        cells = "".join(f"{cell:>{width}}" for cell, (_, width) in zip(_cells(row, metric), _COLUMNS, strict=True))
        self._print(f"{row.name:{self._width}}{cells}{_slowest(row)}")

    def _print(self, text: str) -> None:
        # A bar on the same terminal has replaced sys.stdout to print above itself; a file must not go through it.
        if self._out.isatty():
            print(text)
        else:
            print(text, file=self._out, flush=True)


def notes(frontier: Frontier, pipeline: Pipeline) -> Iterator[str]:
    """What the table's columns mean."""
    setting = frontier.setting
    yield ""
    yield f"{setting['task']}, {setting['sequences']} sequences of {setting['data']}; target {setting['target']}"
    if not frontier.metric:
        return
    from bct_onnx.tasks.evaluate import drop_unit

    unit = drop_unit(setting["task"])
    yield f"worse by {unit} of {frontier.metric}; SQNR (dB), KL (nats), same (largest logit): from the outputs of fp32"
    yield "ratio: fp32 bits of every parameter once over stored bits of everything; s, peak MB: of the compression"
    from bct_onnx.pipeline import find
    from bct_onnx.study.tradeoff.building import SAMPLES

    calibrate = find(pipeline, "calibrate")
    if calibrate is not None:
        yield f"ours, nearest, shift: the same activations and integer functions; {calibrate}"
        yield f"others that calibrate: {SAMPLES} sequences of the same data"


def _cells(row: Row, metric: str) -> Iterator[str]:
    figures = row.figures
    yield number(row.ratio, ".2f")
    yield number(row.bits, ".2f")
    yield number(None if row.nbytes is None else row.nbytes / 1e6, ".2f")
    yield number(row.metric(metric), ".2f", "nan")
    yield "" if figures.get("exact") else number(figures.get("drop"), ".2f", "nan")
    yield "exact" if figures.get("exact") else number(figures.get("sqnr_db"), ".1f", "nan")
    yield number(figures.get("kl"), ".2g")
    yield percent(figures.get("agreement"), ".2f", "-")
    yield number(row.seconds, ".1f", "")
    yield number(None if row.peak is None else row.peak / 1e6, ".0f", "")


def _slowest(row: Row) -> str:
    if row.slowest:
        return f"  {row.slowest} {row.slowest_seconds:.1f} s"
    if row.text:
        return f"  {row.text}"
    return ""
