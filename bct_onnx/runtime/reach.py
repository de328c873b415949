"""How large values of a model become on samples that were made up, and what its outputs keep under a rewrite of it.

For passes that compute in a type of which either is in question, at the end of a pipeline that may have measured
nothing, or another model.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import onnx_ir as ir

from bct_onnx import exactness
from bct_onnx.errors import TargetError
from bct_onnx.forms import measured
from bct_onnx.graph import randomness
from bct_onnx.graph.inventory import inventory
from bct_onnx.graph.names import names_of
from bct_onnx.graph.protobuf import expose
from bct_onnx.graph.save import serialize
from bct_onnx.runtime.observer import Observer
from bct_onnx.runtime.session import Message, run, run_all, runnable, session
from bct_onnx.runtime.understanding import Sampler

LIMIT = 1 << 30
"""Bytes of weights above which a model is not run unasked: that would take several times its size in memory."""

SHAPES = ((4, 64), (1, 7), (3, 24), (1, 128))
"""Batch and sequence of the samples; of several texts all but the first have any length from half of it on."""

OF_SIGNALS = ((2, 24), (1, 7))
"""The same of pictures and sound."""


class Reach:
    """A model that has been run on samples.

    Args:
        model: The model, which is not changed.
        values: What to look at, in its main graph.

    Attributes:
        largest: The largest magnitude of each value, by name; of what an attention gives, that of its scores too.

    Raises:
        TargetError: The model does not run, is too large to be run unasked, or made-up samples say nothing of it.
    """

    def __init__(self, model: ir.Model, values: Collection[ir.Value]) -> None:
        if (nbytes := inventory(model).stored) > LIMIT:
            raise TargetError(f"the model has {nbytes / 1e9:.1f} GB of weights; it is not run")
        self._names = names_of(model.graph.outputs)
        model = _steady(model)
        names = set(names_of(values))
        attentions: list[str] = []
        for node in filter(measured.gives_scores, model.graph):
            attentions += names & {node.outputs[0].name or ""}
        observer = Observer(model, list(values), whole=names, attentions=attentions)
        sampler = Sampler(model, observer.session)
        if sampler.reason:
            raise TargetError("made-up inputs say nothing of the model", why=sampler.reason)
        shapes = OF_SIGNALS if sampler.has_signals else SHAPES
        longest = sampler.longest(max(length for _, length in shapes))
        self._feeds = []
        for seed, (rows, length) in enumerate(shapes):
            sequence = min(length, longest)
            batch = sampler.rows(rows, sequence)
            self._feeds.append(sampler.sample(batch, sequence, seed=seed, padding=batch > 1))
        self._outputs = []
        for feeds in self._feeds:
            observer.see(feeds)
            self._outputs.append(run(observer.session, feeds, self._names))
        self.largest = {name: float(statistics.max_abs.max(initial=0.0)) for name, statistics in observer.found.items()}
        for name, scores in observer.scores.items():
            if scores.known:
                self.largest[name] = max(self.largest[name], scores.greatest, -scores.least)

    def kept(self, changed: ir.Model, rounded: Sequence[str]) -> float:
        """dB that the output that moved most keeps in a changed copy of the model.

        Args:
            changed: The copy.
            rounded: Names of values of 16 bits that have to be rounded to them: where the CPU has no kernel for these
                ONNX Runtime computes in float32, and leaves out what casts to 16 bits and back.

        Raises:
            TargetError: The copy does not run.
        """
        proto, pairs = serialize(runnable(_steady(changed)))
        expose(proto.graph, rounded)
        outputs = run_all(session(Message(proto, pairs)), self._feeds, self._names)
        return min(exactness.kept(self._outputs, outputs, self._names).values(), default=math.inf)


def _steady(model: ir.Model) -> ir.Model:
    """The model, giving the same on every run."""
    if randomness.is_random(model):
        return randomness.steadied(model)
    return model
