"""Measure what goes into each MatMul."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site
from bct_onnx.errors import TargetError
from bct_onnx.runtime.feeds import random_feeds, vocabulary
from bct_onnx.runtime.statistics import KEY, ChannelStatistics, observe
from passes.quantize_weights import find

LIMIT = 1 << 30
"""Bytes of weights above which a model is not run: that would take several times its size in memory."""


@dataclasses.dataclass(frozen=True)
class Calibrate(Pass):
    """Run the model on seeded random tokens and note, per channel, what goes into each MatMul with a constant weight.

    Why:
        A few channels of a transformer are tens of times larger than the rest. Smoothing and weighted rounding need
        to know which; random tokens show them as well as text does, so no data is needed.

    Before/after:
        The graph stays as it is; later passes find the statistics beside the values.

    Declines:
        Models with more than 1 GiB of weights, and values inside subgraphs.

    Options:
        samples: Number of sequences.
        sequence: Tokens in each.
        seed: Seed of the tokens.
        products: Also gather XᵀX of each input, which solver=gptq of quantize-weights needs; inputs wider than 4096 and
            whatever does not fit in 1 GiB together go without.

    Promise:
        Exact: nothing is changed.
    """

    name: ClassVar[str] = "calibrate"

    samples: int = 8
    sequence: int = 64
    seed: int = 0
    products: bool = False

    def apply(self, model: ir.Model) -> Applied:
        """Leave `ChannelStatistics` in the ``meta`` of every value that feeds a weight."""
        inputs = {id(value): value for value in _inputs(model.graph)}
        inner = [value for graph in model.graph.subgraphs() for value in _inputs(graph)]
        declined = [Declined(value.name or "", "inside a subgraph") for value in inner]
        nbytes = sum(one.const_value.nbytes for one in model.graph.initializers.values() if one.const_value is not None)
        if nbytes > LIMIT:
            reason = f"the model has {nbytes / 1e9:.1f} GB of weights; it is not run"
            return Applied(model, (), [Declined(model.graph.name or "graph", reason)])
        if not inputs:
            return Applied(model, (), declined, modified=False)
        try:
            found = self._observe(model, list(inputs.values()))
        except TargetError as error:
            reason = f"the model does not run on random tokens: {error.why}"
            return Applied(model, (), [*declined, Declined(model.graph.name or "graph", reason)], modified=False)
        for value in inputs.values():
            value.meta[KEY] = found[value.name or ""]
        sites = [
            Site(value.name or "", (), f"{found[value.name or ''].rows} random tokens") for value in inputs.values()
        ]
        return Applied(model, sites, declined, modified=False)

    def _observe(self, model: ir.Model, values: list[ir.Value]) -> dict[str, ChannelStatistics]:
        """Statistics of ``values``, over sequences as long as the model has positions for."""
        vocab, products = vocabulary(model), _affordable(values) if self.products else frozenset()
        length = self.sequence
        while True:
            feeds = (
                random_feeds(
                    model, batch=min(BATCH, self.samples - start), sequence=length, seed=self.seed + start, vocab=vocab
                )
                for start in range(0, self.samples, BATCH)
            )
            try:
                return observe(model, values, feeds, products=products)
            except TargetError:
                if length == 1:
                    raise
                length //= 2


BATCH = 8
"""Sequences per run."""

PRODUCTS = 1 << 30
"""Bytes that all XᵀX may take together."""

WIDEST = 4096
"""Widest input whose XᵀX is gathered: its factorization grows with the cube."""


def _affordable(values: Iterable[ir.Value]) -> frozenset[str]:
    """Names of the values whose XᵀX is gathered, in graph order until the budget is spent."""
    names: list[str] = []
    spent = 0
    for value in values:
        weight = next(found.tensor for use in value.uses() if (found := find(use.node)) is not None)
        width = weight.shape[0] if value.shape is None else value.shape[-1]
        if isinstance(width, int) and width <= WIDEST and spent + 4 * width**2 <= PRODUCTS:
            names.append(value.name or "")
            spent += 4 * width**2
    return frozenset(names)


def _inputs(graph: ir.Graph) -> list[ir.Value]:
    """Computed values that are multiplied by a constant weight."""
    found = [node.inputs[0] for node in graph if (one := find(node)) is not None and not one.reason]
    return [value for value in found if value is not None and value.producer() is not None]
