"""What the page shows besides the report: both files profiled, timed at more shapes, and run on samples."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import onnx_ir as ir
import onnxruntime as ort

from bct_onnx import targets
from bct_onnx.graph.load import load
from bct_onnx.graph.names import entries, map_values
from bct_onnx.page.alternatives import Alternative, alternatives
from bct_onnx.page.layers import OUTSIDE, in_order, layer_of
from bct_onnx.page.samples import Samples, samples
from bct_onnx.progress import Progress
from bct_onnx.quant import Error
from bct_onnx.reference import Reference
from bct_onnx.report import Report, Timing
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.latency import measure
from bct_onnx.runtime.openvino import OpenVinoSession
from bct_onnx.runtime.profile import Node, node_times
from bct_onnx.study.naming import users_of

SHAPES = ((1, 16), (8, 128))
"""Batch and sequence that are timed besides the shape of the check."""

PROFILED = (1, 128)
"""Batch and sequence of the profiles, where the model can take so many."""

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
    profiled: tuple[int, int] = PROFILED
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
    model = load(source)
    errors = _weight_errors(model, report)
    if report.parity is None:
        return Evidence(weight_errors=errors)
    progress("time by layer", 0, 1)
    settings = targets.find(report.target).session
    reference = Reference(source, model, True, settings, timed=SHAPES[-1])
    before, after = reference.session, reference.opened(result)
    feeds = reference.unpadded(*PROFILED)
    profiles = [node_times(source, feeds, of=min), node_times(result, feeds, of=min)]
    timings: list[Timing] = []
    if report.timed_in:
        timings += _timings(OpenVinoSession(source), OpenVinoSession(result), reference)
    elif report.speeds:
        timings += _timings(before, after, reference)
    return Evidence(
        timings=tuple(timings),
        profiled=_shape(feeds) or PROFILED,
        layer_ms=(_by_layer(profiles[0]), _by_layer(profiles[1])),
        operator_ms=(_by_operator(profiles[0]), _by_operator(profiles[1])),
        weight_errors=errors,
        samples=samples(reference.sampler, before, after, tokenizer or source.parent),
        alternatives=tuple(alternatives(source, reference, report.target, progress)),
    )


def _weight_errors(model: ir.Model, report: Report) -> dict[str, Error]:
    """Errors of the stored weights by layer: a tensor's own name tells it, else that of a node that uses it."""
    places = map_values(_place, model.graph.initializers)
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
    totals = _totals(times, lambda node: node.op_type)
    return entries(totals, sorted(totals, key=totals.__getitem__, reverse=True))


def _by_layer(times: Mapping[Node, float]) -> dict[str, float]:
    totals = _totals(times, lambda node: layer_of(node.name))
    return entries(totals, in_order(totals))


def _totals(times: Mapping[Node, float], group: Callable[[Node], str]) -> dict[str, float]:
    totals: defaultdict[str, float] = defaultdict(float)
    for node, ms in times.items():
        totals[group(node)] += ms
    return totals


def _timings(before: ort.InferenceSession, after: ort.InferenceSession, reference: Reference) -> Iterator[Timing]:
    """Interleaved medians of both files; shapes that the model cannot take are left out."""
    for batch, sequence in SHAPES:
        feeds = reference.unpadded(batch, sequence)
        if _shape(feeds) == (batch, sequence):
            times = measure({"before": before, "after": after}, feeds, rounds=_ROUNDS, warmup=1, seconds=_SECONDS)
            yield Timing(batch, sequence, times["before"].median_ms, times["after"].median_ms)


def _shape(feeds: Feeds) -> tuple[int, int] | None:
    """Batch and sequence of a sample; None of pictures and the like."""
    first = next(iter(feeds.values()))
    if first.ndim != 2 or first.dtype.kind != "i":
        return None
    return first.shape[0], first.shape[1]
