"""Quantize what flows between the layers: inputs of non-linear functions, attention and the residual stream."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterator
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from bct_onnx.errors import UsageError
from bct_onnx.forms import codes
from bct_onnx.forms.factors import plain
from bct_onnx.forms.gated import GATES, gates_itself, silu_of
from bct_onnx.forms.residual import is_residual
from bct_onnx.graph import lengths
from bct_onnx.graph.signals import signals
from bct_onnx.runtime.histogram import CLIPPED, CLIPPED_RANDOM
from bct_onnx.runtime.statistics import KEY, MASKED, ChannelStatistics

NORMS = ("LayerNormalization", "RMSNormalization")

KINDS: dict[str, tuple[str, ...]] = {
    "gelu": ("Gelu",),
    "sigmoid": ("Sigmoid", "Tanh"),
    "softmax": ("Softmax",),
    "attention": ("Attention",),
    "norm": NORMS,
    "residual": ("Add",),
}
"""Operators by the name of their kind in the option ``around``."""

_KIND_OF = {op_type: kind for kind, op_types in KINDS.items() for op_type in op_types if kind != "residual"}

FLAT = {"Gelu": -4.0, "Sigmoid": -8.0, "Tanh": -4.0, "Silu": -10.0}
"""Below this a function is flat to within 1/2000 of its range, so that no code need go there."""

RISE = {"Gelu": -0.75, "Sigmoid": 0.0, "Tanh": 0.0, "Silu": -1.28}
"""Where inputs all stay below this, results are small, and flat is only what lies so much farther down."""

NOISE = "its range comes from random signals, and real ones may exceed it: give some with --calibrate"

SCORES_OF_NOISE = "its scores come from random data, and real ones may exceed them: give some with --calibrate"

FLOAT_AROUND = "what its function takes or gives stays float: codes on one side alone gain nothing"

TOO_COARSE = "what differs from token to token is too small for 8-bit codes of its whole range"

OWN_GATE = (
    "it is multiplied by what it is a function of: where it is small that is large, and steps of one size lose it"
)

_FUNCTIONS = ("Gelu", "Sigmoid", "Tanh", "Softmax")
"""Operators of one input and one result, which become integer functions where both are codes."""

MARGINS = {8: 1.5, 16: 4.0}
"""By how much ranges of random signals are widened where scales have to be constants, by bits: codes of 16 bits have
room to spare, of 8 bits this costs 3.5 dB."""


@dataclasses.dataclass(frozen=True)
class QuantizeIntermediates(Pass):
    """Quantize the intermediate results that integer functions take and give, with one calibrated scale each.

    Why:
        With codes on both sides of a non-linear function, of attention and of a residual addition, the integer-* passes
        can replace each by integer arithmetic on codes. The scales are constants: nothing is searched at run time, and
        the same text gives the same result in every batch.

    Before/after:
        ``Gelu(x)`` becomes ``DQ(Q(Gelu(DQ(Q(x)))))`` with uint8 codes. Likewise the queries, keys, values and result of
        ``Attention``; what ``Softmax``, ``Sigmoid`` and ``Tanh`` take and give; what normalizations give; and both
        sides of a residual addition. What a normalization takes from elsewhere than an addition gets 16 bits.

    Declines:
        Values without statistics (see calibrate), what is an output of the model, and scores that are masked by very
        negative numbers outside of an ``Attention``. Values whose ranges come from random signals (pictures, sounds,
        features): real ones would be clipped. Scores before a Softmax, unless real data calibrated them. What only
        decides how long a value is. What a function takes, where what it gives stays float.

    Options:
        scale: real, or shift: the next power of two.
        around: Which operators: gelu, sigmoid (also SiLU and tanh), softmax, attention, norm, residual; all by default.
        noise: Where ranges come from random inputs that say little: float (leave it), or static (trust them).

    Promise:
        Bounded: each value within its range moves by at most half a step, range / 255; what lies outside is clipped.
        The range is what was calibrated; around GELU and SiLU it leaves out rare large values if the squared error
        gets smaller by that (see `bct_onnx.runtime.histogram`).
    """

    name: ClassVar[str] = "quantize-intermediates"
    stage: ClassVar[Stage] = Stage.CODE
    promise: ClassVar[str] = "bounded"

    scale: Literal["real", "shift"] = "real"
    around: tuple[str, ...] = tuple(KINDS)
    noise: Literal["float", "static"] = "float"

    def __post_init__(self) -> None:
        unknown = [name for name in self.around if name not in KINDS]
        if unknown:
            raise UsageError(f"around={'|'.join(unknown)} is not known", fix=f"use some of {', '.join(KINDS)}")

    def apply(self, model: ir.Model) -> Applied:
        """Quantize every intermediate result of the main graph that an integer function could take or give."""
        sites: list[Site] = []
        declined: dict[int, Declined] = {}
        guessed = signals(model) if self.noise == "float" else set[ir.Value]()
        deciding = lengths.deciding(model)
        for node in list(model.graph):
            wanted = [(value, bits) for value, bits in self._wanted(node) if not _is_codes(value)]
            kept = lengths.REASON if node in deciding else ""
            reasons = {id(value): kept or self._refuse(value, bits, guessed) for value, bits in wanted}
            around = FLOAT_AROUND if any(reasons.values()) and node.op_type in _FUNCTIONS else ""
            around = around or (OWN_GATE if node.op_type in GATES and gates_itself(node) else "")
            for value, bits in wanted:
                reason = reasons[id(value)] or around
                if reason:
                    declined.setdefault(id(value), Declined(value.name or "", reason))
                elif not _is_codes(value):  # both sides of an addition can be the same
                    declined.pop(id(value), None)
                    sites.append(self._quantize(value, bits))
        return Applied(model, sites, list(declined.values()))

    def _wanted(self, node: ir.Node) -> Iterator[tuple[ir.Value, int]]:
        kind = "residual" if is_residual(node) else _KIND_OF.get(node.op_type, "")
        if kind in self.around and not node.domain:
            yield from ((plain(value), bits) for value, bits in _wanted(node))

    def _refuse(self, value: ir.Value, bits: int, guessed: set[ir.Value]) -> str:
        """Why ``value`` stays float; empty where it becomes codes."""
        span, statistics = span_of(value, clip=bits == 8), value.meta.get(KEY)
        scores = any(use.node.op_type == "Softmax" for use in value.uses())
        if value.is_graph_output() or value.producer() is None:
            return f"an {'output' if value.is_graph_output() else 'input'} of the model"
        if span is None:
            return "no statistics; run calibrate first"
        if scores and span.low < MASKED:
            return f"it holds {span.low:.2g}, as masked scores do: no steps would be left for the others"
        if is_guess(value, guessed):
            return NOISE
        if bits == 8 and isinstance(statistics, ChannelStatistics) and not _told_apart(span, statistics):
            return TOO_COARSE
        if scores and self.noise == "float" and isinstance(statistics, ChannelStatistics) and statistics.random:
            return SCORES_OF_NOISE
        return ""

    def _quantize(self, value: ir.Value, bits: int) -> Site:
        span = span_of(value, clip=bits == 8)
        assert span is not None
        name, used = value.name or "", "/".join(sorted({use.node.op_type for use in value.uses()}))
        codes.insert(value, span.shifted(bits) if self.scale == "shift" else span, bits)
        return Site(name, (used,), f"{bits} bits, {span.low:.3g} to {span.high:.3g}")


def _told_apart(span: codes.Range, statistics: ChannelStatistics) -> bool:
    """Whether steps of 8 bits leave 26 dB of what differs between rows, a quarter of each channel's range at most."""
    spread = statistics.maximum - statistics.minimum
    power = np.minimum(np.square(spread / 4), statistics.mean_square)
    return bool(np.mean(power) >= 10**2.6 * float(span.uint8()[0]) ** 2 / 12)


def _is_codes(value: ir.Value) -> bool:
    return codes.read(value) is not None or codes.quantized(value) is not None


def is_guess(value: ir.Value, guessed: Container[ir.Value]) -> bool:
    """Whether random data alone tells the range of ``value``, which is one of those ``guessed``: see `signals`."""
    statistics = value.meta.get(KEY)
    return isinstance(statistics, ChannelStatistics) and statistics.random and value in guessed


def is_random_share(value: ir.Value) -> bool:
    """Whether ``value`` is what a Softmax gave for random data."""
    producer = value.producer()
    return producer is not None and producer.op_type == "Softmax" and is_guess(value, (value,))


def widened(span: codes.Range, bits: int) -> codes.Range:
    """The range with a margin, for values whose real range is not known."""
    return codes.Range(span.low * MARGINS[bits], span.high * MARGINS[bits])


def span_of(value: ir.Value, *, clip: bool = True) -> codes.Range | None:
    """The calibrated range of ``value``, without what its only users do not tell apart; None where nothing is known.

    Args:
        value: What is to be quantized.
        clip: Leave out rare large values in front of and behind GELU and SiLU, where 8-bit codes get closer by that.
    """
    producer, statistics = value.producer(), value.meta.get(KEY)
    kind = producer.op_type if producer is not None else ""
    if kind == "Softmax":
        known = isinstance(statistics, ChannelStatistics) and statistics.maximum.size and statistics.rows
        top = float(np.max(statistics.maximum)) if known and isinstance(statistics, ChannelStatistics) else 1.0
        return codes.Range(0.0, top if 0 < top < 0.5 else 1.0)  # integer-softmax gives codes of 0 to 1
    if kind == "Tanh" and not _is_small(statistics):
        return codes.Range(-1.0, 127 / 128)  # codes of the sigmoid that it is made from
    if not isinstance(statistics, ChannelStatistics) or not statistics.minimum.size:
        return None
    low, high = float(np.min(statistics.minimum)), float(np.max(statistics.maximum))
    if not (np.isfinite(low) and np.isfinite(high)):
        return None
    users = {function_of(use.node) for use in value.uses()}
    floor = min((_flat(user, high) for user in users), default=-np.inf)
    ceiling = -_flat(next(iter(users)), -low) if len(users) == 1 and users <= {"Sigmoid", "Tanh"} else np.inf
    low, high = min(max(low, floor), 0.0), max(min(high, ceiling), 0.0)
    if clip and statistics.histogram is not None and _is_hidden(value):
        weight = CLIPPED_RANDOM if statistics.random else CLIPPED
        low, high = statistics.histogram.best_range(low, high, clipped=weight)
    return codes.Range(low, high)


def _is_small(statistics: object) -> bool:
    """Whether a tanh uses less than half of its range."""
    known = isinstance(statistics, ChannelStatistics) and statistics.rows > 0
    return known and isinstance(statistics, ChannelStatistics) and float(statistics.max_abs.max()) < 0.5


def _flat(function: str, high: float) -> float:
    """Below what inputs of up to ``high`` give no results that differ."""
    return FLAT[function] + min(0.0, high - RISE[function]) if function in FLAT else -np.inf


def _is_hidden(value: ir.Value) -> bool:
    """Whether ``value`` is what a feed-forward layer's function takes or gives: units that are off for most tokens and
    very large for a few. What goes into streams and attention has its large values where they count."""
    producer = value.producer()
    around = [use.node for use in value.uses()] + ([producer] if producer is not None else [])
    return any(function_of(node) in ("Gelu", "Silu") for node in around)


def function_of(node: ir.Node) -> str:
    """The function that ``node`` computes or is half of: x * Sigmoid(x) is Silu."""
    if node.op_type == "Sigmoid" and silu_of(node) is not None:
        return "Silu"
    if node.op_type == "Mul" and any(
        other is not None and (made := other.producer()) is not None and silu_of(made) is node for other in node.inputs
    ):
        return "Silu"
    return node.op_type


def _wanted(node: ir.Node) -> Iterator[tuple[ir.Value, int]]:
    """The values around ``node`` that should be codes, and their bits."""
    first, result = node.inputs[0] if node.inputs else None, node.outputs[0]
    if node.op_type in ("Gelu", "Tanh", "Softmax") and first is not None:
        yield from ((first, 8), (result, 8))
    elif node.op_type == "Sigmoid" and first is not None:
        product = silu_of(node)
        yield from ((first, 8), (result if product is None else product.outputs[0], 8))
    elif node.op_type == "Attention":
        yield from ((value, 8) for value in (*node.inputs[:3], result) if value is not None)
    elif node.op_type in NORMS and first is not None:
        producer = plain(first).producer()
        if producer is not None and not is_residual(producer):
            yield first, 16
        yield result, 8
    elif is_residual(node):
        yield from ((value, _stream_bits(value)) for value in node.inputs if value is not None and not _carried(value))


def _carried(value: ir.Value) -> bool:
    """Whether ``value`` is itself a residual sum, which stays in 32 bits."""
    producer = plain(value).producer()
    return producer is not None and is_residual(producer)


def _stream_bits(value: ir.Value) -> int:
    """8 bits for what a layer adds, 16 for what a residual stream begins with."""
    producer = plain(value).producer()
    return 8 if producer is not None and producer.op_type in ("MatMul", "Gemm", "Add", *NORMS) else 16
