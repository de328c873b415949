"""What the page shows besides the report: both files profiled, timed at more shapes, and run on samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from bct_onnx import targets
from bct_onnx.graph.load import load
from bct_onnx.page.alternatives import Alternative, alternatives
from bct_onnx.page.layers import OUTSIDE, in_order, layer_of
from bct_onnx.page.samples import Samples, samples
from bct_onnx.progress import Progress
from bct_onnx.quant import Error
from bct_onnx.report import Report, Timing
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.latency import measure
from bct_onnx.runtime.openvino import OpenVinoSession
from bct_onnx.runtime.profile import Node, node_times
from bct_onnx.runtime.session import session
from bct_onnx.runtime.understanding import Sampler
from bct_onnx.study.naming import users_of

SHAPES = ((1, 16), (8, 128))
"""Batch and sequence that are timed besides the shape of the check."""

_ROUNDS, _SECONDS = 6, 6.0


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What was measured.

    Attributes:
        timings: Of both files at more shapes, one thread.
        profiled: Batch and sequence of the profiles.
        layer_ms: Milliseconds by layer, of the source and of the result.
        operator_ms: The same by operator, the result's most expensive first.
        weight_errors: Error of what was stored in few bits, by layer.
        samples: Outputs side by side.
        alternatives: Other numbers of bits.
    """

    timings: tuple[Timing, ...] = ()
    profiled: tuple[int, int] = (1, 128)
    layer_ms: tuple[dict[str, float], dict[str, float]] = ({}, {})
    operator_ms: tuple[dict[str, float], dict[str, float]] = ({}, {})
    weight_errors: dict[str, Error] = dataclasses.field(default_factory=dict)
    samples: Samples | None = None
    alternatives: tuple[Alternative, ...] = ()


def gather(source: Path, result: Path, report: Report, tokenizer: Path | None, progress: Progress) -> Evidence:
    """Measure both files.

    Args:
        source: The model as it came.
        result: What was made of it.
        report: Of the run; where it compared no outputs, nothing is run here either.
        tokenizer: Folder of one; by default beside the source.
        progress: Told what is measured.

    Raises:
        TargetError: ONNX Runtime does not run one of them.
    """
    errors = _weight_errors(source, report)
    if report.parity is None:
        return Evidence(weight_errors=errors)
    progress("time by layer", 0, 1)
    settings = targets.find(report.target).session
    before, after = session(source), session(result, settings=settings)
    sampler = Sampler(load(source), before)
    shape = (1, sampler.longest(128))
    feeds = sampler.sample(*shape, seed=1, family="check")
    mine, theirs = (node_times(model, feeds, of=min) for model in (source, result))
    return Evidence(
        timings=_timings(source, result, report, sampler),
        profiled=_shape(feeds) or shape,
        layer_ms=(_by_layer(mine), _by_layer(theirs)),
        operator_ms=(_by_operator(mine), _by_operator(theirs)),
        weight_errors=errors,
        samples=samples(source, before, after, tokenizer or source.parent),
        alternatives=alternatives(source, report.target, progress),
    )


def _weight_errors(source: Path, report: Report) -> dict[str, Error]:
    """Errors of the stored weights by layer: a tensor's own name tells it, else that of a node that uses it."""
    places = {name: _place(value) for name, value in load(source).graph.initializers.items()}
    parts: dict[str, list[Error]] = {}
    for step in report.steps:
        for site in step.sites:
            if step.stage.quantizes and site.error is not None:
                parts.setdefault(layer_of(places.get(site.name, site.name)), []).append(site.error)
    return {layer: sum(parts[layer], Error()) for layer in in_order(parts)}


def _place(value: ir.Value) -> str:
    name = value.name or ""
    if layer_of(name) != OUTSIDE:
        return name
    return next((node.name for node in users_of(value) if node.name), name)


def _by_operator(times: Mapping[Node, float]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for node, ms in times.items():
        totals[node.op_type] = totals.get(node.op_type, 0.0) + ms
    return dict(sorted(totals.items(), key=lambda pair: -pair[1]))


def _by_layer(times: Mapping[Node, float]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for node, ms in times.items():
        layer = layer_of(node.name)
        totals[layer] = totals.get(layer, 0.0) + ms
    return {layer: totals[layer] for layer in in_order(totals)}


def _timings(source: Path, result: Path, report: Report, sampler: Sampler) -> tuple[Timing, ...]:
    """Interleaved medians where the rewrite has timed; shapes that the model cannot take are left out."""
    if not report.speeds:
        return ()
    timings, settings = [], targets.find(report.target).session
    before, after = session(source), session(result, settings=settings)
    if report.timed_in:
        before, after = OpenVinoSession(source), OpenVinoSession(result)
    for batch, sequence in SHAPES:
        feeds = sampler.sample(batch, min(sequence, sampler.longest(sequence)), seed=2, family="check")
        shape = _shape(feeds)
        if shape != (batch, sequence):
            continue
        times = measure({"before": before, "after": after}, feeds, rounds=_ROUNDS, warmup=1, seconds=_SECONDS)
        timings.append(Timing(batch, sequence, times["before"].median_ms, times["after"].median_ms))
    return tuple(timings)


def _shape(feeds: Feeds) -> tuple[int, int] | None:
    """Batch and sequence of a sample; None of pictures and the like."""
    first = next(iter(feeds.values()))
    return (first.shape[0], first.shape[1]) if first.ndim == 2 and first.dtype.kind == "i" else None
