"""Quantize what flows between the layers: inputs of non-linear functions, attention and the residual stream."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from bct_onnx.errors import UsageError
from bct_onnx.forms import codes
from bct_onnx.forms.factors import plain
from bct_onnx.forms.gated import GATES, gates_itself, silu_of
from bct_onnx.forms.linear import NORMS
from bct_onnx.forms.ranges import NOISE, SCORES_OF_NOISE, is_guess, span_of
from bct_onnx.forms.residual import is_residual
from bct_onnx.graph import lengths
from bct_onnx.graph.neighbours import is_read_by, made_by, op_types, operand, producer, producers
from bct_onnx.graph.signals import signals
from bct_onnx.runtime.statistics import MASKED, ChannelStatistics, measured

KINDS: dict[str, tuple[str, ...]] = {
    "gelu": ("Gelu",),
    "sigmoid": ("Sigmoid", "Tanh"),
    "softmax": ("Softmax",),
    "attention": ("Attention",),
    "norm": NORMS,
    "residual": ("Add",),
}
"""Operators by the name of their kind in the option ``around``."""

_KIND_OF: dict[str, str] = {}
for _kind, _op_types in KINDS.items():
    if _kind != "residual":
        _KIND_OF |= dict.fromkeys(_op_types, _kind)

FLOAT_AROUND = "what its function takes or gives stays float: codes on one side alone gain nothing"

TOO_COARSE = "what differs from token to token is too small for 8-bit codes of its whole range"

OWN_GATE = (
    "it is multiplied by what it is a function of: where it is small that is large, and steps of one size lose it"
)

_FUNCTIONS = ("Gelu", "Sigmoid", "Tanh", "Softmax")
"""Operators of one input and one result, which become integer functions where both are codes."""


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
        declined: dict[ir.Value, Declined] = {}
        guessed = signals(model) if self.noise == "float" else set[ir.Value]()
        deciding = lengths.deciding(model)
        for node in list(model.graph):
            for value, bits, reason in self._judged(node, guessed):
                if node in deciding:
                    declined.setdefault(value, Declined(value.name or "", lengths.REASON))
                elif reason:
                    declined.setdefault(value, Declined(value.name or "", reason))
                elif not _is_codes(value):  # both sides of an addition can be the same
                    declined.pop(value, None)
                    sites.append(self._quantize(value, bits))
        return Applied(model, sites, list(declined.values()))

    def _judged(self, node: ir.Node, guessed: set[ir.Value]) -> list[tuple[ir.Value, int, str]]:
        """The values around ``node`` that should be codes, their bits, and why they stay float, if they do."""
        kind = "residual" if is_residual(node) else _KIND_OF.get(node.op_type, "")
        if kind not in self.around or node.domain:
            return []
        judged: list[tuple[ir.Value, int, str]] = []
        for value, bits in _wanted(node):
            source = plain(value)
            if not _is_codes(source):
                judged.append((source, bits, self._refuse(source, bits, guessed)))
        around = OWN_GATE if node.op_type in GATES and gates_itself(node) else ""
        if node.op_type in _FUNCTIONS and any(reason for _, _, reason in judged):
            around = FLOAT_AROUND
        return [(value, bits, reason or around) for value, bits, reason in judged]

    def _refuse(self, value: ir.Value, bits: int, guessed: set[ir.Value]) -> str:
        """Why ``value`` stays float; empty where it becomes codes."""
        span, statistics = span_of(value, clip=bits == 8), measured(value)
        scores = is_read_by(value, "Softmax")
        if value.is_graph_output():
            return "an output of the model"
        if value.producer() is None:
            return "an input of the model"
        if span is None:
            return "no statistics; run calibrate first"
        if scores and span.low < MASKED:
            return f"it holds {span.low:.2g}, as masked scores do: no steps would be left for the others"
        if is_guess(value, guessed):
            return NOISE
        if bits == 8 and statistics is not None and not _told_apart(span, statistics):
            return TOO_COARSE
        if scores and self.noise == "float" and statistics is not None and statistics.random:
            return SCORES_OF_NOISE
        return ""

    def _quantize(self, value: ir.Value, bits: int) -> Site:
        span = span_of(value, clip=bits == 8)
        assert span is not None
        name, used = value.name or "", "/".join(sorted(set(op_types(value.consumers()))))
        codes.insert(value, span.shifted(bits) if self.scale == "shift" else span, bits)
        return Site(name, (used,), f"{bits} bits, {span.low:.3g} to {span.high:.3g}")


def _told_apart(span: codes.Range, statistics: ChannelStatistics) -> bool:
    """Whether steps of 8 bits leave 26 dB of what differs between rows, a quarter of each channel's range at most."""
    spread = statistics.maximum - statistics.minimum
    power = np.minimum(np.square(spread / 4), statistics.mean_square)
    return bool(np.mean(power) >= 10**2.6 * float(span.uint8()[0]) ** 2 / 12)


def _is_codes(value: ir.Value) -> bool:
    return codes.read(value) is not None or codes.quantized(value) is not None


def _wanted(node: ir.Node) -> Iterator[tuple[ir.Value, int]]:
    """The values around ``node`` that should be codes, and their bits."""
    first, result = operand(node, 0), node.outputs[0]
    if node.op_type in ("Gelu", "Tanh", "Softmax") and first is not None:
        yield from ((first, 8), (result, 8))
    elif node.op_type == "Sigmoid" and first is not None:
        product = silu_of(node)
        yield from ((first, 8), (result if product is None else product.outputs[0], 8))
    elif node.op_type == "Attention":
        yield from ((value, 8) for value in (*node.inputs[:3], result) if value is not None)
    elif node.op_type in NORMS and first is not None:
        if producer(plain(first)) is not None and not _carried(first):
            yield first, 16
        yield result, 8
    elif is_residual(node):
        yield from ((value, _stream_bits(value)) for value in node.inputs if value is not None and not _carried(value))


def _carried(value: ir.Value) -> bool:
    """Whether ``value`` is itself a residual sum, which stays in 32 bits."""
    return any(map(is_residual, producers([plain(value)])))


def _stream_bits(value: ir.Value) -> int:
    """8 bits for what a layer adds, 16 for what a residual stream begins with."""
    if made_by(plain(value), "MatMul", "Gemm", "Add", *NORMS):
        return 8
    return 16
