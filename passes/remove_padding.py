"""Only real tokens are computed; padding is put back where texts meet themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from bct_onnx.graph import operators
from bct_onnx.graph.padding.buckets import Buckets, is_divisible
from bct_onnx.graph.padding.layout import Layout, Mixing
from bct_onnx.graph.padding.packing import Packing
from bct_onnx.graph.padding.places import Places
from bct_onnx.graph.padding.record import Removed
from bct_onnx.graph.padding.row_wise import APART
from bct_onnx.runtime.hidden_tokens import Reading, leak, shortens
from bct_onnx.runtime.understanding.meaning import kind_by_name

_MOST = 0.5
"""Of the products that read tokens: so many at least have to go without padding."""

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
        and takes the real ones of the result.

    Declines:
        Models without a mask ``[batch, sequence]``; those in which hidden tokens reach others, by the mean of all
        tokens or a convolution over them. That is tried: the nodes between run on random values, and again with others
        where the mask hides them.

    Options:
        buckets: Where at least an eighth of a batch is padding, and it has as many texts, attention runs on so many
            groups of texts of like length, one after another; 1 keeps all texts together.

    Promise:
        Exact where the mask keeps a token. Outputs ``[batch, sequence, ...]`` are 0 where it does not.
    """

    buckets: int = 8

    name: ClassVar[str] = "remove-padding"
    stage: ClassVar[Stage] = Stage.PACK

    def apply(self, model: ir.Model) -> Applied:
        """Try the inputs that may be a mask, one after another."""
        model.graph.sort()
        declined: list[Declined] = []
        for mask in _masks(model):
            outcome = _without(model, mask, self.buckets)
            if isinstance(outcome, Site):
                return Applied(model, [outcome], note=_note(model))
            declined.append(outcome)
        if not declined:
            declined.append(Declined(model.graph.name or "graph", "no input is a mask [batch, sequence]"))
        return Applied(model, (), declined)


def _masks(model: ir.Model) -> Iterator[ir.Value]:
    for value in model.graph.inputs:
        shape = value.shape
        if shape is not None and shape.rank() == APART and kind_by_name(value.name or "") == "mask":
            yield value


def _note(model: ir.Model) -> str:
    """What a reader of the outputs has to know."""
    removed = Removed.of(model.metadata_props)
    if removed is None or not removed.outputs:
        return ""
    return f"{', '.join(removed.outputs)}: zeros where {removed.mask} hides a token; compared at real tokens alone"


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


def _without(model: ir.Model, mask: ir.Value, buckets: int) -> Site | Declined:
    read = Layout(model, mask).read_positions()
    plans: list[_Plan] = []
    for hides in (False, True):
        for all_read in (True, False) if read else (True,):
            plan = _plan(model, mask, Reading(hides, read, all_read))
            plans.append(plan)
            if plan.share > _MOST:
                return _rewritten(model, plan, buckets)
    return Declined(mask.name or "", plans[0].leak or "no product with weights works on each token by itself")


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


def _has_tokens(layout: Layout, value: ir.Value) -> bool:
    """Whether an output has a row for each token."""
    return layout.is_content(value) and layout.axes(value) == APART


def _share(layout: Layout) -> float:
    packed = _work(layout.packed)
    return packed / max(1, packed + _work(layout.apart))


def _work(nodes: Iterable[ir.Node]) -> int:
    return sum(operators.name(node.domain, node.op_type) in _WORK for node in nodes)


def _rewritten(model: ir.Model, plan: _Plan, buckets: int) -> Site:
    layout, reading = plan.layout, plan.reading
    read = reading.read if reading.all_read else ()
    places = Places(model.graph, layout.mask, hides=reading.hides, read=read)
    outputs = tuple(value.name or "" for value in model.graph.outputs if _has_tokens(layout, value))
    groups = [group for group in plan.mixing if is_divisible(layout, group)] if buckets > 1 else []
    groups = [group for group in groups if shortens(model, layout, group, reading)]
    running = Buckets(layout, places, groups, buckets) if groups else None
    if running is not None:
        for group in groups:
            running.run(group)
    Packing(layout, places, running).run()
    Removed(layout.mask.name or "", reading.hides, outputs).write(model)
    model.graph.sort()
    note = f"{_work(layout.packed)} products on real tokens, padding around {len(plan.mixing)} groups of nodes"
    if groups:
        note += f", {len(groups)} of them in {buckets} buckets where that pays"
    if plan.leak:
        note += f"; with padding as before: {_work(layout.apart)} products, as {plan.leak}"
    return Site(layout.mask.name or "", (), note)
