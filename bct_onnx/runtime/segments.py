"""A model that is looked at piece by piece: what all samples make of one piece is what they feed to the next.

So no more than one piece lies in ONNX Runtime at a time, with the statistics of its values, however large the model.
What goes from piece to piece waits in a file.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import tempfile
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import IO

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from bct_onnx.graph import tensors
from bct_onnx.graph.names import by_name, map_values, names_of, values_named
from bct_onnx.graph.neighbours import inputs_of, outputs_of, provided, read_by
from bct_onnx.quant.sizes import total_nbytes
from bct_onnx.quant.stored import Stored
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.observer import Observer
from bct_onnx.runtime.statistics import ChannelStatistics, Scores

MOST = 1 << 27
"""Bytes of weights, XᵀX and values of one run in a piece: at least so many, and at most about twice as many."""

_PLAIN = (*tensors.FLOATS, ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)


@dataclasses.dataclass(frozen=True)
class Segment:
    """Nodes of the main graph that follow each other, by what goes in and out.

    Attributes:
        observed: Values made here that are looked at.
        inputs: Values that earlier segments have made.
        outputs: Values made here that later ones read.
    """

    observed: tuple[ir.Value, ...]
    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]

    def extract(self, model: ir.Model) -> ir.Model:
        """A model of the segment alone; its weights are those of ``model``."""
        copy = model.clone()
        made = list(outputs_of(copy.graph))
        wanted = values_named(made, names_of((*self.observed, *self.outputs)))
        copy.graph.outputs[:] = dict.fromkeys(wanted)
        for value, computed in zip(self.inputs, values_named(made, names_of(self.inputs)), strict=True):
            given = ir.Value(name=value.name, type=computed.type, shape=_free(computed.shape))
            computed.name = f"{value.name}.computed"
            computed.replace_all_uses_with(given)
            copy.graph.inputs.append(given)
        RemoveUnusedNodesPass()(copy)
        read = set(read_by(*copy.graph))
        copy.graph.inputs[:] = [value for value in copy.graph.inputs if value in read]
        return copy


def _free(shape: ir.Shape | None) -> ir.Shape | None:
    """A shape of which the channels alone are fixed: ONNX Runtime refuses inputs that are not as declared."""
    if shape is None or not shape.rank():
        return shape
    return ir.Shape([*[None] * (shape.rank() - 1), shape[-1]])


def cut(model: ir.Model, observed: Sequence[ir.Value], sizes: Mapping[str, int], most: int) -> list[Segment]:
    """The segments of a model; one where it is small or cannot be cut.

    Each ends at the narrowest place between ``most`` bytes and twice as many.

    Args:
        model: The model, its nodes in topological order.
        observed: Values of its main graph that are looked at.
        sizes: Bytes that each of them takes while it is looked at, by name.
        most: Bytes of these values and of weights in a segment.
    """
    nodes, wanted = list(model.graph), frozenset(observed)
    bounds, spent, best = [0], 0, (_NOWHERE, 0)
    seams = [_seam(passing, wanted) for passing in _passing(nodes)]
    for at, (node, seam) in enumerate(zip(nodes, seams, strict=True)):
        spent += _weights(node) + sum(sizes.get(value.name or "", 0) for value in node.outputs if value in wanted)
        if spent >= most:
            best = min(best, (seam, at + 1))
        if spent >= 2 * most and best[0] < _NOWHERE:
            bounds.append(best[1])
            spent, best = 0, (_NOWHERE, 0)
    parts = [nodes[start:stop] for start, stop in itertools.pairwise([*bounds, len(nodes)])]
    return [segment for segment in _segments(parts, wanted) if segment.observed or segment.outputs]


_NOWHERE = (1 << 30, 0)


def _seam(passing: Iterable[ir.Value], wanted: Container[ir.Value]) -> tuple[int, int]:
    """How many floats pass a place, and how many of these are not looked at: what is looked at ONNX Runtime keeps as it
    is in the whole model too. Where anything passes but arrays of numbers there is no cutting."""
    count = unseen = 0
    for value in passing:
        if not isinstance(value.type, ir.TensorType) or value.type.dtype not in _PLAIN:
            return _NOWHERE
        if value.dtype in tensors.FLOATS:
            count += 1
            unseen += value not in wanted
    return count, unseen


def _passing(nodes: Sequence[ir.Node]) -> Iterator[list[ir.Value]]:
    """Behind each node the values made so far that are read later."""
    last: dict[ir.Value, int] = {}
    for at, node in enumerate(nodes):
        last |= dict.fromkeys(read_by(node), at)
    passing: list[ir.Value] = []
    for at, node in enumerate(nodes):
        passing = [value for value in (*passing, *node.outputs) if last.get(value, -1) > at]
        yield passing


def _weights(node: ir.Node) -> int:
    """Bytes of the weights that a node reads."""
    weights = filter(ir.Value.is_initializer, inputs_of([node]))
    return total_nbytes(provided(weight.const_value for weight in weights))


def _segments(parts: Sequence[Sequence[ir.Node]], wanted: Container[ir.Value]) -> Iterator[Segment]:
    """The segments that consist of these nodes."""
    home: dict[ir.Value, int] = {}
    for number, part in enumerate(parts):
        home |= dict.fromkeys(outputs_of(part), number)
    inputs = collections.defaultdict[int, dict[ir.Value, None]](dict)
    outputs = collections.defaultdict[int, dict[ir.Value, None]](dict)
    for number, part in enumerate(parts):
        for value in read_by(*part):
            if home.get(value, number) < number:
                inputs[number][value] = None
                outputs[home[value]][value] = None
    for number, part in enumerate(parts):
        observed = tuple(value for value in outputs_of(part) if value in wanted)
        yield Segment(observed, tuple(inputs[number]), tuple(outputs[number]))


class InSegments:
    """`Observer` piece by piece.

    Args:
        model: The model as it is now.
        segments: Its segments.
        whole, products, attentions: As for `Observer`.

    Attributes:
        found, scores: As of `Observer`; products wait in the active spool.
    """

    def __init__(
        self,
        model: ir.Model,
        segments: Sequence[Segment],
        *,
        whole: Container[str] = (),
        products: Container[str] = (),
        attentions: Container[str] = (),
    ) -> None:
        self._model, self._segments = model, segments
        self._whole, self._products, self._attentions = whole, products, attentions
        self.found: dict[str, ChannelStatistics] = {}
        self.scores: dict[str, Scores] = {}

    def see(self, batches: Iterable[Feeds]) -> Iterator[Feeds]:
        """Run the model on all batches and add what goes through it; handed out is each batch of each segment.

        Raises:
            TargetError: ONNX Runtime cannot run a segment.
        """
        waiting = batches
        with contextlib.ExitStack() as files:
            for number, segment in enumerate(self._segments):
                behind = _Waiting(files.enter_context(tempfile.TemporaryFile(dir=tensors.spool_folder())))
                observer, read = self._observer(segment), self._read_behind(number)
                for feeds in waiting:
                    yield feeds
                    made = observer.see(feeds, handed_on=names_of(segment.outputs))
                    behind.add({name: array for name, array in (feeds | made).items() if name in read})
                self.found |= map_values(_put_away, observer.found)
                self.scores |= observer.scores
                waiting = behind

    def _read_behind(self, number: int) -> set[str]:
        """What segments behind one read: inputs of the model, and what it or those before it make."""
        read = set(names_of(self._model.graph.inputs))
        for segment in self._segments[number + 1 :]:
            read |= set(names_of(segment.inputs))
        return read

    def _observer(self, segment: Segment) -> Observer:
        part = segment.extract(self._model)
        made = by_name(outputs_of(part.graph))
        attentions = list(filter(self._attentions.__contains__, made))
        values = list(map(made.__getitem__, names_of(segment.observed)))
        return Observer(part, values, whole=self._whole, products=self._products, attentions=attentions)


class _Waiting:
    """Arrays by name, batch after batch, in a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._names: list[list[str]] = []

    def add(self, arrays: Feeds) -> None:
        """Append one batch."""
        self._names.append(list(arrays))
        for array in arrays.values():
            np.save(self._file, array, allow_pickle=False)

    def __iter__(self) -> Iterator[Feeds]:
        self._file.seek(0)
        for names in self._names:
            yield {name: np.load(self._file, allow_pickle=False) for name in names}


def _put_away(statistics: ChannelStatistics) -> ChannelStatistics:
    moments = statistics.moments
    if moments is None or isinstance(moments.upper, Stored):
        return statistics
    return dataclasses.replace(statistics, moments=dataclasses.replace(moments, upper=tensors.put_away(moments.upper)))
