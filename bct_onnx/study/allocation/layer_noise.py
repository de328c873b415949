"""Which layers a model misses least: one after the other goes, each time the one whose absence makes least noise."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from bct_onnx.course import Course
from bct_onnx.graph import tensors
from bct_onnx.graph.layers import bypass, layers
from bct_onnx.progress import tell
from bct_onnx.quant import Error
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.partial import Partial
from bct_onnx.study.allocation import data
from bct_onnx.tasks.calibration import CalibrationData

SEQUENCES = 16
"""Sequences that noise is measured on."""


def least_missed(model: ir.Model, count: int) -> list[tuple[int, float]]:
    """The layers that go, in the order in which they do, each with the noise over signal of the outputs without it.

    Args:
        model: The float model, on its course: it runs on what the calibrate ahead is given, or random tokens.
        count: How many go.

    Raises:
        UsageError: The calibration data cannot be read or used.
        TargetError: ONNX Runtime cannot run the model.
    """
    CalibrationData.ahead(Course.of(model).following).leave(model)
    batches = data.read(model, SEQUENCES).batches
    names = [output.name or "" for output in model.graph.outputs if output.dtype in tensors.FLOATS]
    expected = list(map(Partial(model, names), batches))
    left = [number for number, layer in enumerate(layers(model.graph)) if not layer.gives]
    gone: list[tuple[int, float]] = []
    while left and len(gone) < count:
        noises: dict[int, float] = {}
        for number in left:
            tell(f"layer {number}, {len(gone) + 1} of {count}")
            fewer = model.clone()
            bypass(layers(fewer.graph), {number, *(each for each, _ in gone)})
            noises[number] = _noise(Partial(fewer, names), batches, expected)
        least = min(noises, key=noises.__getitem__)
        left.remove(least)
        gone.append((least, noises[least]))
    return gone


def _noise(model: Partial, batches: Sequence[Feeds], expected: Sequence[Feeds]) -> float:
    """Squared error over squared signal of all outputs."""
    error = Error()
    for feeds, wanted in zip(batches, expected, strict=True):
        for name, output in model(feeds).items():
            error += Error.of(wanted[name], output)
    return error.ratio
