"""Quantize every calibrated value with one constant scale."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Outcome, Pass, Site, Stage
from bct_onnx.forms import codes
from bct_onnx.forms.ranges import is_guess, span_of, widened
from bct_onnx.graph.logarithms import becomes_logarithm
from bct_onnx.graph.neighbours import op_types
from bct_onnx.graph.signals import signals
from bct_onnx.runtime.statistics import KEY, ChannelStatistics


@dataclasses.dataclass(frozen=True)
class QuantizeDataflow(Pass):
    """Put ``QuantizeLinear`` and ``DequantizeLinear`` behind every value that was calibrated.

    Why:
        Accelerators with integer arithmetic run an operator in integers if there is a ``DequantizeLinear`` before each
        of its inputs and a ``QuantizeLinear`` behind its result, and in float16, or not at all, otherwise. 16-bit codes
        with 8-bit weights are what they are accurate with on transformers.

    Before/after:
        ``y = MatMul(x, W)`` becomes ``y = DQ(Q(MatMul(x, W)))``, likewise what additions, normalizations, activations
        and lookups of tables give.

    Declines:
        Values without statistics, what is an output of the model, and what a logarithm is taken of, such as energies of
        sound: one step of the loudest is larger than most others are.

    Options:
        bits: 16 or 8, unsigned.

    Promise:
        Bounded: each value within its calibrated range moves by at most half a step, range / 65535 or range / 255; what
        lies outside is clipped. Ranges that random signals alone tell are widened, 1.5 times with 8 and 4 times with 16
        bits: real ones may exceed them.
    """

    name: ClassVar[str] = "quantize-dataflow"
    stage: ClassVar[Stage] = Stage.CODE
    promise: ClassVar[str] = "bounded"

    bits: Literal["16", "8"] = "16"

    def apply(self, model: ir.Model) -> Applied:
        """Quantize every calibrated value of the main graph that is not codes already."""
        outcomes: list[Outcome] = []
        guessed = signals(model)
        for node in list(model.graph):
            for value in node.outputs:
                if isinstance(value.meta.get(KEY), ChannelStatistics) and value.uses():
                    outcomes.append(self._quantize(value, guessed))
        if not outcomes:
            outcomes.append(Declined(model.graph.name or "graph", "no statistics; run calibrate first"))
        return Applied.of(model, outcomes)

    def _quantize(self, value: ir.Value, guessed: set[ir.Value]) -> Outcome:
        name = value.name or ""
        span = span_of(value, clip=self.bits == "8")
        if span is not None and is_guess(value, guessed):
            span = widened(span, int(self.bits))
        if codes.read(value) or codes.quantized(value):
            return None
        if value.is_graph_output():
            return Declined(name, "an output of the model")
        if span is None:
            return Declined(name, "no finite statistics")
        if becomes_logarithm(value):
            return Declined(name, "a logarithm is taken of it, in which small numbers count as much")
        used = "/".join(sorted(set(op_types(value.consumers()))))
        codes.insert(value, span, int(self.bits), unsigned=True)
        return Site(name, (used,), f"{self.bits} bits, {span.low:.3g} to {span.high:.3g}")
