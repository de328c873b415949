"""Look at the values of a model while it runs: the whole of it at once, or piece by piece where it is large."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from bct_onnx import progress
from bct_onnx.forms import measured
from bct_onnx.runtime import segments
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.observer import Observer
from bct_onnx.runtime.segments import InSegments


@dataclasses.dataclass(frozen=True)
class Runs:
    """What the model is run on.

    Attributes:
        feeds: Inputs of every run.
        count: How many runs they are; 0 where that is not known before.
        source: Where they come from, in words.
        sizes: Bytes of each value of one row.
        rows: So many rows has the largest run, or rather so many times these bytes.
    """

    feeds: Iterable[Feeds]
    count: int
    source: str
    sizes: dict[str, int]
    rows: int


def look(
    model: ir.Model, values: Sequence[ir.Value], figures: Mapping[str, Any], runs: Runs, at_once: int
) -> Observer | InSegments:
    """Run a model, and see what goes through it.

    Args:
        model: The model as it is now.
        values: What to look at, in its main graph.
        figures: What is to be known of which value, as `Observer` takes it.
        runs: What it is run on.
        at_once: Bytes of values that one run of the whole model hands out.

    Raises:
        TargetError: ONNX Runtime cannot run the model.
    """
    sizes = measured.looked_at(values, figures["products"], runs.sizes, runs.rows)
    parts = segments.cut(model, values, sizes, segments.MOST)
    if len(parts) > 1:
        in_segments = InSegments(model, parts, **figures)
        for _ in progress.told(in_segments.see(runs.feeds), len(parts) * runs.count):
            pass
        return in_segments
    observer = Observer(model, values, **figures)
    fits = runs.rows * sum(runs.sizes.values()) <= at_once
    for batch in progress.told(runs.feeds, runs.count):
        observer.see(batch, at_once=None if fits else at_once)
    return observer
