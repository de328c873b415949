"""Compute in float16 from one matrix product to the next."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Outcome, Pass, Site, Stage
from bct_onnx.errors import TargetError, UsageError
from bct_onnx.graph import names, provenance
from bct_onnx.graph.halving import BETWEEN, MASKS, PRODUCTS, Halving, around, floats_of, is_half, is_product
from bct_onnx.graph.names import names_of
from bct_onnx.graph.neighbours import outputs_of
from bct_onnx.graph.operators import identifier
from bct_onnx.quant import halves
from bct_onnx.runtime.reach import Reach
from bct_onnx.runtime.statistics import measured

TRIED = "with it in float16 an output would lose too much, maybe where rows see nothing"
"""Why an attention stays: a row that numbers hide wholly is a plain mean in float32, in float16 one by scores."""


@dataclasses.dataclass(frozen=True)
class HalfActivations(Pass):
    """Compute in float16 from one matrix product to the next, where values fit; inputs and outputs stay float32.

    Why:
        GPUs multiply float16 on units that are several times as fast as those for float32, and read half the bytes.

    Before/after:
        ``MatMul(Gelu(MatMul(x, w)), v)`` becomes ``Cast(MatMul(Gelu(MatMul(Cast(x), w16)), v16))``: everything between
        two products that is arithmetic, a normalization, or moves values. What a mask adds to scores is raised to
        -30000, which hides as well, unless it holds nothing that float16 has not, such as -inf; a row in which
        everything is hidden by finite numbers, such as padding, gets another mean of all values.

    Declines:
        Constants that float16 does not hold, or loses more than 60 dB of; nodes around which values came near the
        largest float16 (65504), attention scores among them, in samples that are made up here or in those of calibrate;
        attentions that are given keys and values of the past in float32, whose casts cost more than they gain; nodes
        named in ``keep``; products in branches and loops. Where an output would keep less than is promised attentions
        stay float32, and if that is not enough, or the model cannot be run here, everything does. Softmax and all other
        operators stay float32, and so does what leads from a product to one of these or out of the model.

    Options:
        margin: How many times larger than in the samples values may become.
        unmeasured: Where the model cannot be run here, or has more than 1 GiB of weights: ``decline``, or ``trust``
            that everything fits.
        keep: Name patterns of nodes that stay float32, joined by ``|``; ``*`` switches the pass off.

    Promise:
        Bounded: each value loses half a unit of float16, 2^-12 of it; every output keeps 40 dB of what it was, which
        the pass tries on samples before it changes anything, and every run checks on others.
    """

    name: ClassVar[str] = "half-activations"
    stage: ClassVar[Stage] = Stage.LOWER
    promise: ClassVar[str] = "bounded"
    least: ClassVar[float | None] = 40.0

    margin: float = 4.0
    unmeasured: Literal["decline", "trust"] = "decline"
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.margin >= 1:
            raise UsageError(f"margin={self.margin:g} is not allowed", fix="use 1 or more")

    def apply(self, model: ir.Model) -> Applied:
        """Halve what lies between products, unless a trial says that too much would be lost."""
        products = [node for node in model.graph.all_nodes() if is_product(node) and floats_of(node)]
        inner = [node for node in products if node.graph is not model.graph]
        declined = [Declined(node.name or node.op_type, "inside a branch or a loop") for node in inner]
        outcomes: list[Outcome] = []
        note = ""
        if any(node.graph is model.graph and not self._keeps(node) for node in products):
            try:
                tried, note = self._tried(model)
                outcomes += tried
            except TargetError as error:
                reason = f"{error.what}: {error.why}" if error.why else error.what
                outcomes.append(Declined(model.graph.name or "graph", reason))
        applied = Applied.of(model, [*declined, *outcomes])
        return Applied(model, applied.sites, applied.declined, note=note if applied.sites else "")

    def _tried(self, model: ir.Model) -> tuple[list[Outcome], str]:
        """Try it on a copy, and if that keeps what is promised, do it; with a note of how much that is.

        Raises:
            TargetError: There are no samples to try it on.
        """
        largest = _calibrated(model.graph)
        if self.unmeasured == "trust":
            return self._halved(model, largest), "computes in float16 between products; not tried here"
        reach = Reach(model, list(around(model.graph)))
        largest = {name: max(most, largest.get(name, 0.0)) for name, most in reach.largest.items()}
        assert self.least is not None
        kept_db = []
        for without in ((), tuple(MASKS)):
            trial = model.clone()
            with provenance.stamping(trial, self.name):  # for names that no other node has
                self._halved(trial, largest, without)
            kept_db.append(reach.kept(trial, names_of(filter(is_half, outputs_of(trial.graph)))))
            if kept_db[-1] >= self.least:
                note = f"computes in float16 between products: outputs keep {kept_db[-1]:.0f} dB"
                return self._halved(model, largest, without), note
        reason = f"an output would keep {kept_db[0]:.0f} dB of what it was, not {self.least:.0f}"
        return [Declined(model.graph.name or "graph", reason)], ""

    def _halved(self, model: ir.Model, largest: Mapping[str, float], without: Sequence[str] = ()) -> list[Outcome]:
        """Do it, but for operators that were tried and lose too much."""
        halving = Halving(model.graph, largest, halves.LARGEST / self.margin)
        outcomes: list[Outcome] = []
        for node in list(model.graph):
            if identifier(node) not in PRODUCTS + BETWEEN or node.graph is None:
                continue
            if self._keeps(node):
                outcomes.append(_stays(node, "kept by option keep"))
            elif identifier(node) in without:
                outcomes.append(_stays(node, TRIED))
            else:
                outcomes.append(_outcome(node, halving.halve(node)))
        halving.finish()
        return outcomes

    def _keeps(self, node: ir.Node) -> bool:
        return names.any_fits([node.name], self.keep)


def _calibrated(graph: ir.Graph) -> dict[str, float]:
    """The largest magnitudes that calibrate saw, by name."""
    magnitudes: dict[str, float] = {}
    for node in graph:
        for value in node.outputs:
            if (statistics := measured(value)) is not None:
                magnitudes[value.name or ""] = float(statistics.max_abs.max(initial=0.0))
    return magnitudes


def _stays(node: ir.Node, reason: str) -> Outcome:
    if is_product(node) and floats_of(node):
        return Declined(node.name or node.op_type, reason)
    return None


def _outcome(node: ir.Node, halved: ir.Node | str) -> Outcome:
    if isinstance(halved, ir.Node):
        return Site(halved.name or "", (node.op_type,))
    if halved:
        return Declined(node.name or node.op_type, halved)
    return None
