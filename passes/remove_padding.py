"""Only real tokens are computed; padding is put back where texts meet themselves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import ClassVar, Literal

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from bct_onnx.graph import operators
from bct_onnx.graph.inventory import inventory
from bct_onnx.graph.known import is_sized
from bct_onnx.graph.padding.buckets import Buckets, copied_bytes, is_divisible
from bct_onnx.graph.padding.layout import Layout, Mixing
from bct_onnx.graph.padding.packing import Packing
from bct_onnx.graph.padding.places import Places
from bct_onnx.graph.padding.record import Removed
from bct_onnx.graph.padding.row_wise import APART
from bct_onnx.runtime.hidden_tokens import Reading, leak, shortens
from bct_onnx.runtime.understanding.meaning import kind_by_name

_MOST = 0.5
"""Of the products that read tokens: so many at least have to go without padding."""

_SPARED = 0.01
"""Of a model that did not ask for buckets these may add so much at most: a classifier of 1 MB gets none."""

_WORK = operators.named("product", "integer product", "few-bit product")


@dataclasses.dataclass(frozen=True)
class RemovePadding(Pass):
    """Compute real tokens only, and pad again around attention alone.

    Why:
        In a batch of texts as they come, a third to two thirds of the tokens are padding, and all that is done with
        them is thrown away. Nine tenths of the work of an encoder see one token at a time.

    Before/after:
        Nodes that work on each token by itself run on ``[1, tokens, channels]``: all texts are one long text of real
        tokens. Where tokens see each other, in attention say, ``Gather`` puts them back to ``[batch, sequence, ...]``,
        and takes the real ones of the result. Where nothing is padded all runs as it did, `Attention` without its mask
        if that then hides nothing.

    Declines:
        Models without a mask ``[batch, sequence]``; those in which hidden tokens reach others, by the mean of all
        tokens or a convolution over them. That is tried: the nodes between run on random values, and again with others
        where the mask hides them.

    Options:
        outputs: ``rows`` declines models whose outputs have a row for each token, for these can be read without the
            mask, and those that read a position which the mask may hide; buckets may
            add a hundredth to the file at most then. ``all`` (default) declines neither.
        buckets: Where at least an eighth of a batch is padding, and it has as many texts, attention runs on so many
            groups of texts of like length, one after another; 1 keeps all texts together.

    Promise:
        Exact where the mask keeps a token. Outputs ``[batch, sequence, ...]`` are 0 where it does not. A position that
        the model reads by its number, the first say, is computed whatever the mask says; where its attention hides
        such a query too, results are exact if the mask keeps it, which the report says.
    """

    outputs: Literal["all", "rows"] = "all"
    buckets: int = 8

    name: ClassVar[str] = "remove-padding"
    stage: ClassVar[Stage] = Stage.PACK

    def apply(self, model: ir.Model) -> Applied:
        """Try the inputs that may be a mask, one after another."""
        model.graph.sort()
        masks = list(_masks(model))
        if not masks and self.outputs == "all":
            return Applied(model, (), [Declined(model.graph.name or "graph", "no input is a mask [batch, sequence]")])
        declined: list[Declined] = []
        offers: list[str] = []
        for mask in masks:
            outcome = self._without(model, mask)
            if isinstance(outcome, Site):
                return Applied(model, [outcome], note=_note(model))
            declined.append(outcome)
            offers += self._offers(Layout(model, mask))
        return Applied(model, (), declined, note="".join(offers[:1]))

    def _offers(self, layout: Layout) -> Iterator[str]:
        """What ``all`` would give, where ``rows`` has declined an output that has a row for each token."""
        tokens = _token_outputs(layout)
        if self.outputs == "rows" and tokens and _share(layout) > _MOST:
            yield (
                f"padding is computed too, for '{tokens[0]}' has a row for each token; with --no-padding it is not: "
                "twice as fast on texts as they come, and zeros in the rows of padding"
            )

    def _without(self, model: ir.Model, mask: ir.Value) -> Site | Declined:
        layout, rows = Layout(model, mask), self.outputs == "rows"
        name, read = mask.name or "", layout.read_positions()
        tokens = _token_outputs(layout)
        if rows and is_sized(layout.shapes.of(mask) or ()):
            return Declined(name, "its sizes are fixed, and so are those of what is computed")
        if tokens and rows:
            why = f"output '{tokens[0]}' has a row for each token, padding too, and may be read without the mask"
            return Declined(name, f"{why}; --no-padding takes it away all the same")
        leaks: list[str] = []
        for hides in (False, True):
            for all_read in (True, False) if read and not rows else (True,):
                plan = _plan(model, mask, Reading(hides, read, all_read))
                if plan.share > _MOST:
                    return _rewritten(model, plan, self.buckets, within=_SPARED if rows else math.inf)
                leaks.append(plan.leak)
        return Declined(name, leaks[0] or "no product with weights works on each token by itself")


def _masks(model: ir.Model) -> Iterator[ir.Value]:
    for value in model.graph.inputs:
        shape = value.shape
        if shape is not None and shape.rank() == APART and kind_by_name(value.name or "") == "mask":
            yield value


def _note(model: ir.Model) -> str:
    """What a reader of the outputs has to know."""
    removed = Removed.of(model.metadata_props)
    if removed is None:
        return ""
    notes = []
    if removed.outputs:
        zeros = f"{', '.join(removed.outputs)}: zeros where {removed.mask} hides a token"
        notes.append(f"{zeros}; compared at real tokens alone")
    if removed.reads:
        positions = ", ".join(map(str, removed.reads))
        notes.append(f"exact where {removed.mask} keeps position {positions}, which the model reads")
    return "; ".join(notes)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What can run on real tokens alone.

    Attributes:
        layout: The nodes, sorted.
        mixing: Groups of nodes that need padding.
        reading: What the mask means.
        share: Of the products that read tokens, those without padding.
        leak: Why the others keep it; empty where there are none.
    """

    layout: Layout
    mixing: list[Mixing]
    reading: Reading
    share: float
    leak: str


def _plan(model: ir.Model, mask: ir.Value, reading: Reading) -> _Plan:
    """Leave with padding whatever leads to nodes in which hidden tokens reach others, and see what is left."""
    apart, first = frozenset[ir.Node](), ""
    while True:
        layout = Layout(model, mask, apart)
        mixing = layout.components()
        for group in mixing:
            reason = leak(model, layout, group, reading)
            if reason:
                break
        else:
            return _Plan(layout, mixing, reading, _share(layout), first)
        first = first or reason
        apart |= layout.before(group)


def _token_outputs(layout: Layout) -> list[str]:
    """The outputs that have a row for each token."""
    content = filter(layout.is_content, layout.outputs)
    return [value.name or "" for value in content if layout.axes(value) == APART]


def _share(layout: Layout) -> float:
    packed = _work(layout.packed)
    return packed / max(1, packed + _work(layout.apart))


def _work(nodes: Iterable[ir.Node]) -> int:
    return sum(operators.identifier(node) in _WORK for node in nodes)


def _rewritten(model: ir.Model, plan: _Plan, buckets: int, within: float) -> Site:
    layout, reading = plan.layout, plan.reading
    read = reading.read if reading.all_read else ()
    outputs = tuple(_token_outputs(layout))
    groups = [group for group in plan.mixing if is_divisible(layout, group)]
    if buckets > 1:
        groups = [group for group in groups if shortens(model, layout, group, reading)]
    if copied_bytes(groups, buckets) > within * inventory(model).nbytes:
        buckets = 1
    places = Places(model.graph, layout.mask, hides=reading.hides, read=read, buckets=buckets)
    running = Buckets(layout, places, groups, buckets) if groups else None
    if running is not None:
        for group in groups:
            running.run(group)
    Packing(layout, places, running).run()
    reads = () if reading.all_read else reading.read
    Removed(layout.mask.name or "", reading.hides, outputs, reads).write(model)
    model.graph.sort()
    note = f"{_work(layout.packed)} products on real tokens, padding around {len(plan.mixing)} groups of nodes"
    if groups and buckets > 1:
        note += f", {len(groups)} of them in {buckets} buckets where that pays"
    if plan.leak:
        note += f"; with padding as before: {_work(layout.apart)} products, as {plan.leak}"
    return Site(layout.mask.name or "", (), note)
