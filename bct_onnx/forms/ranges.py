"""The range that a value's codes have to hold, from what calibrate has measured of it."""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import onnx_ir as ir

from bct_onnx.forms import codes
from bct_onnx.forms.gated import silu_of
from bct_onnx.graph import tensors
from bct_onnx.graph.neighbours import made_by, producer, provided
from bct_onnx.runtime.histogram import CLIPPED, CLIPPED_RANDOM
from bct_onnx.runtime.statistics import ChannelStatistics, measured

FLAT = {"Gelu": -4.0, "Sigmoid": -8.0, "Tanh": -4.0, "Silu": -10.0}
"""Below this a function is flat to within 1/2000 of its range, so that no code need go there."""

RISE = {"Gelu": -0.75, "Sigmoid": 0.0, "Tanh": 0.0, "Silu": -1.28}
"""Where inputs all stay below this, results are small, and flat is only what lies so much farther down."""

NOISE = "its range comes from random signals, and real ones may exceed it: give some with --calibrate"

SCORES_OF_NOISE = "its scores come from random data, and real ones may exceed them: give some with --calibrate"

MARGINS = {8: 1.5, 16: 4.0}
"""By how much ranges of random signals are widened where scales have to be constants, by bits: codes of 16 bits have
room to spare, of 8 bits this costs 3.5 dB."""


def is_guess(value: ir.Value, guessed: Container[ir.Value]) -> bool:
    """Whether random data alone tells the range of ``value``, which is one of those ``guessed``: see `signals`."""
    statistics = measured(value)
    return statistics is not None and statistics.random and value in guessed


def is_random_share(value: ir.Value) -> bool:
    """Whether ``value`` is what a Softmax gave for random data."""
    return made_by(value, "Softmax") is not None and is_guess(value, (value,))


def widened(span: codes.Range, bits: int) -> codes.Range:
    """The range with a margin, for values whose real range is not known."""
    return codes.Range(span.low * MARGINS[bits], span.high * MARGINS[bits])


def span_of(value: ir.Value, *, clip: bool = True) -> codes.Range | None:
    """The calibrated range of ``value``, without what its only users do not tell apart; None where nothing is known.

    Args:
        value: What is to be quantized.
        clip: Leave out rare large values in front of and behind GELU and SiLU, where 8-bit codes get closer by that.
    """
    statistics = measured(value)
    if made_by(value, "Softmax"):
        top = 1.0
        if statistics is not None and statistics.maximum.size and statistics.rows:
            top = float(np.max(statistics.maximum))
        return codes.Range(0.0, top if 0 < top < 0.5 else 1.0)  # integer-softmax gives codes of 0 to 1
    if made_by(value, "Tanh") and not _is_small(statistics):
        return codes.Range(-1.0, 127 / 128)  # codes of the sigmoid that it is made from
    if statistics is None or not statistics.minimum.size:
        return None
    low, high = float(np.min(statistics.minimum)), float(np.max(statistics.maximum))
    if not (np.isfinite(low) and np.isfinite(high)):
        return None
    low, high = _told_apart(value, low, high)
    if clip and statistics.histogram is not None and _is_hidden(value):
        weight = CLIPPED_RANDOM if statistics.random else CLIPPED
        low, high = statistics.histogram.best_range(low, high, clipped=weight)
    return codes.Range(low, high)


def _told_apart(value: ir.Value, low: float, high: float) -> tuple[float, float]:
    """The part of a range, zero included, in which the users of ``value`` do not give the same result."""
    users = set(map(function_of, value.consumers()))
    floor = min((_flat(user, high) for user in users), default=-np.inf)
    ceiling = np.inf
    if len(users) == 1 and users <= {"Sigmoid", "Tanh"}:  # as flat above as below
        ceiling = -_flat(users.pop(), -low)
    elif users == {"Gelu"}:  # above what its codes hold it gives the last of them
        ceiling = max(_last_code(use.node.outputs[0]) for use in value.uses())
    return min(max(low, floor), 0.0), max(min(high, ceiling), 0.0)


def _last_code(value: ir.Value) -> float:
    """What the last of the codes that alone use ``value`` stands for; no bound where these are not known."""
    quantize = codes.quantized_to_bytes(value)
    if quantize is None or quantize.inputs[1] is None or quantize.inputs[2] is None:
        return np.inf
    return float(tensors.array(quantize.inputs[1])) * (255 - int(tensors.array(quantize.inputs[2])))


def _is_small(statistics: ChannelStatistics | None) -> bool:
    """Whether a tanh uses less than half of its range."""
    return statistics is not None and statistics.rows > 0 and float(statistics.max_abs.max()) < 0.5


def _flat(function: str, high: float) -> float:
    """Below what inputs of up to ``high`` give no results that differ."""
    if function in FLAT:
        return FLAT[function] + min(0.0, high - RISE[function])
    return -np.inf


def _is_hidden(value: ir.Value) -> bool:
    """Whether ``value`` is what a feed-forward layer's function takes or gives: units that are off for most tokens and
    very large for a few. What goes into streams and attention has its large values where they count."""
    around = provided([value.producer(), *value.consumers()])
    return not {"Gelu", "Silu"}.isdisjoint(map(function_of, around))


def function_of(node: ir.Node) -> str:
    """The function that ``node`` computes or is half of: x * Sigmoid(x) is Silu."""
    if node.op_type == "Sigmoid" and silu_of(node) is not None:
        return "Silu"
    if node.op_type != "Mul":
        return node.op_type
    for factor in node.inputs:
        maker = producer(factor)
        if maker is not None and silu_of(maker) is node:
            return "Silu"
    return node.op_type
