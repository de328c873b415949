"""Attention as a batch needs it: as it is where nothing is padded, on buckets of texts of like length where that pays.

Texts are sorted by where their last real token stands. An `If` at the start gives each bucket its texts, and masks
and positions cut to its longest text; one for each group of nodes that mix tokens runs them on the whole batch, or on
one bucket after another.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from bct_onnx.graph import provenance, walk
from bct_onnx.graph.branches import Nodes
from bct_onnx.graph.known import dtypes_of
from bct_onnx.graph.neighbours import operand, outputs_of, producer, reached, read_by
from bct_onnx.graph.padding.copies import copied, either, nothing, two
from bct_onnx.graph.padding.layout import Layout, Mixing, is_read_apart
from bct_onnx.graph.padding.places import Places
from bct_onnx.graph.padding.row_wise import APART, channels

_NODE = 200
"""Bytes of a node in a file, with its name and who made it."""


def is_divisible(layout: Layout, mixing: Mixing) -> bool:
    """Whether a group of nodes can run on some texts alone, by what it reads and gives."""
    if leads_back(mixing) or not set(map(producer, mixing.entries)) <= layout.packed.keys():
        return False
    for value in (*mixing.entries, *mixing.results):
        if layout.axes(value) != APART or channels(layout, value, APART) is None:
            return False
    inside = {*mixing.nodes, *layout.packed}
    if any(is_read_apart(value, inside) for value in mixing.results):
        return False
    for node in mixing.nodes:  # of what is inside others may ask the shape, and then it stays where it is
        for value in node.outputs:
            if value not in mixing.results and not set(value.consumers()) <= set(mixing.nodes):
                return False
    for node in (*mixing.nodes, *mixing.free):
        if walk.holds_graphs(node):
            return False
    for value in _inputs(mixing):
        if layout.axes(value) != APART or len(layout.shapes.of(value) or ()) != APART:
            return False
    return None not in dtypes_of(shared(mixing))


def leads_back(mixing: Mixing) -> bool:
    """Whether a result of a group goes into it again, by way of others: then it cannot run as a whole."""
    readers = itertools.chain.from_iterable(map(ir.Value.consumers, mixing.results))
    others = set(readers).difference(mixing.nodes)
    leading = reached(others, lambda node: set(node.successors()).difference(mixing.nodes))
    return not set(mixing.entries).isdisjoint(outputs_of(leading))


def copied_bytes(groups: Sequence[Mixing], count: int) -> int:
    """About how much larger a file gets by a copy of the nodes for each bucket."""
    copies = len(_free(groups))
    for group in groups:
        copies += len(group.nodes) + 2 * len(group.entries) + len(group.results)
    return _NODE * count * copies


def _free(groups: Sequence[Mixing]) -> set[ir.Node]:
    """The nodes that serve groups and know nothing of tokens."""
    return set().union(*(group.free for group in groups))


def shared(mixing: Mixing) -> list[ir.Value]:
    """What a group reads of nodes that know nothing of tokens: masks, positions."""
    values: dict[ir.Value, None] = {}
    for value in read_by(*mixing.nodes):
        if value.producer() in mixing.free or value.is_graph_input():
            values[value] = None
    return list(values)


def _inputs(mixing: Mixing) -> list[ir.Value]:
    read = dict.fromkeys(read_by(*mixing.free, *mixing.nodes))
    return list(itertools.filterfalse(ir.Value.is_initializer, filter(ir.Value.is_graph_input, read)))


@dataclasses.dataclass(frozen=True)
class _Bucket:
    """What belongs to one bucket of texts.

    Attributes:
        home: As that of `Places`, [texts, length].
        shared: What stands for masks and positions.
    """

    home: ir.Value
    shared: Mapping[ir.Value, ir.Value]


class Buckets:
    """Runs groups of nodes in buckets.

    Args:
        layout: Where values lie.
        places: Where real tokens are.
        groups: All groups that will run in buckets; see `is_divisible`.
        count: How many buckets there are.

    Attributes:
        results: What the groups that have run give, with padding where nothing is padded, else [1, tokens, ...].
        readers: New nodes that read such values.
    """

    def __init__(self, layout: Layout, places: Places, groups: Sequence[Mixing], count: int) -> None:
        self._layout, self._places, self._count = layout, places, count
        self._root = places.edit.graph
        self.results: list[ir.Value] = []
        self.readers: set[ir.Node] = set()
        self._shared = list(dict.fromkeys(itertools.chain.from_iterable(map(shared, groups))))
        self._free = walk.in_order(_free(groups), self._root)
        self._place: ir.Value | None = None
        self._buckets: list[_Bucket] = []
        if count > 1:
            self._place, self._buckets = self._planned()

    def _planned(self) -> tuple[ir.Value, list[_Bucket]]:
        """What all layers read of each bucket, computed once for each run."""
        nodes = Nodes("buckets")
        place, buckets = self._plan(nodes)
        planned = [place]
        for bucket in buckets:
            planned += [bucket.home, *(bucket.shared[value] for value in self._shared)]
        kinds = [ir.DataType.INT64]
        for _ in buckets:
            kinds += [ir.DataType.INT64, *(value.dtype or ir.DataType.FLOAT for value in self._shared)]
        others = Nodes("no_buckets")
        idle = [nothing(others, kind) for kind in kinds]
        choice = either("buckets/If", self._places.pays, nodes, planned, others, idle)
        self._root.insert_after(self._places.anchor, choice)
        outputs = choice.outputs
        buckets, step = [], 1 + len(self._shared)
        for value, kind in zip(outputs, kinds, strict=True):
            value.type = ir.TensorType(kind)
        for first in range(1, len(outputs), step):
            own = outputs[first : first + step]
            buckets.append(_Bucket(own[0], dict(zip(self._shared, own[1:], strict=True))))
        return outputs[0], buckets

    def _plan(self, nodes: Nodes) -> tuple[ir.Value, list[_Bucket]]:
        places, ints, op = self._places, self._places.ints, nodes.op
        zero, one, count = ints(0), ints(1), ints(self._count)
        texts = places.texts(nodes)
        lengths, order = two(nodes, "TopK", places.lengths, texts)
        begins = op("Div", op("Mul", texts, ints(*range(self._count))), count)
        stops = op("Div", op("Mul", texts, ints(*range(1, self._count + 1))), count)
        widths = op("Max", op("Gather", lengths, begins), one)
        rank = op("Add", places.counted(nodes, texts), one)
        bucket_of = op("Div", op("Sub", op("Mul", rank, count), one), texts)
        starts = op("CumSum", op("Gather", widths, bucket_of), places.scalar(0), exclusive=1)
        start_of = op("ScatterElements", starts, order, starts)
        text_of = op("Div", places.tokens, places.sequence(nodes))
        place = op("Add", op("Gather", start_of, text_of), places.positions)
        buckets = []
        for number in range(self._count):
            here, behind = ints(number), ints(number + 1)
            rows = op("Slice", order, op("Slice", begins, here, behind), op("Slice", stops, here, behind))
            width = op("Slice", widths, here, behind)

            def cut(value: ir.Value, rows: ir.Value = rows, width: ir.Value = width) -> ir.Value:
                return op("Slice", op("Gather", value, rows), zero, width, one)

            home = cut(places.home)
            replaced = {value: cut(value) for value in self._layout.inputs if self._is_read(value)}
            self._copy_free(nodes, home, replaced)
            buckets.append(_Bucket(home, {value: replaced[value] for value in self._shared}))
        return place, buckets

    def _is_read(self, value: ir.Value) -> bool:
        return value in self._shared or any(value in read_by(node) for node in self._free)

    def _copy_free(self, nodes: Nodes, home: ir.Value, replaced: dict[ir.Value, ir.Value]) -> None:
        """Masks and positions of a bucket, from its part of the model's inputs."""
        for node in self._free:
            source = operand(node, 0)
            if node.op_type == "Shape" and source is not None and self._layout.is_content(source):
                replaced[node.outputs[0]] = self._sizes(nodes, node, source, home)
            else:
                nodes.nodes.append(copied(node, replaced))

    def _sizes(self, nodes: Nodes, node: ir.Node, source: ir.Value, home: ir.Value) -> ir.Value:
        """The shape, or a part of it, that a value of tokens has in a bucket."""
        inner = channels(self._layout, source, APART) or ()
        whole = nodes.op("Shape", home)
        if inner:
            whole = nodes.op("Concat", whole, self._places.ints(*inner), axis=0)
        first = node.attributes.get_int("start", 0)
        last = node.attributes.get_int("end", APART + len(inner))
        return nodes.op("Slice", whole, self._places.ints(first), self._places.ints(last))

    def run(self, group: Mixing) -> None:
        """Put a group behind an ``If``: as it is where nothing is padded, else between moves of real tokens."""
        last = group.nodes[-1]
        label = f"{last.name or last.op_type}/If"
        full, padded = Nodes("full"), Nodes("padded")
        same: dict[ir.Value, ir.Value] = {}
        full.nodes += [self._places.unpadded(node, same) for node in group.nodes]
        self.readers.update(full.nodes)
        others = self._padded(padded, group, label)
        choice = either(label, self._places.full, full, [same[value] for value in group.results], padded, others)
        self._root.insert_after(last, choice)
        for value, result in zip(choice.outputs, group.results, strict=True):
            value.type = result.type
            self._layout.stand_in(value, result)
            self.results.append(value)
            result.replace_all_uses_with(value)
        provenance.replaced([choice], group.nodes)
        self._root.remove(group.nodes, safe=True)

    def _padded(self, nodes: Nodes, group: Mixing, label: str) -> list[ir.Value]:
        """The results, [1, tokens, ...], of a batch with padding: in buckets where that pays."""
        whole = Nodes("batch")
        others: list[ir.Value] = []
        for value in self._on(whole, group, self._rows(whole, group), self._places.home, {}):
            others.append(whole.op("Gather", value, self._places.tokens, axis=1))
        if not self._buckets:
            nodes.nodes += whole.nodes
            return others
        parted = Nodes("bucket")
        rows = self._rows(parted, group)
        parts = [self._on(parted, group, rows, bucket.home, bucket.shared) for bucket in self._buckets]
        joined = []
        for number in range(len(group.results)):
            one_text = parted.op("Concat", *(part[number] for part in parts), axis=1)
            joined.append(parted.op("Gather", one_text, self._place, axis=1))
        choice = either(f"{label}/padded", self._places.pays, parted, joined, whole, others)
        nodes.nodes.append(choice)
        return list(choice.outputs)

    def _rows(self, nodes: Nodes, group: Mixing) -> dict[ir.Value, ir.Value]:
        """What a group reads of tokens as [tokens, ...], so that one operator gathers the texts of a bucket."""
        rows = {}
        for entry in group.entries:
            if any(entry in node.inputs for node in group.nodes):
                rows[entry] = nodes.op("Squeeze", entry, self._places.ints(0))
                self.readers.add(nodes.nodes[-1])
        return rows

    def _on(
        self,
        nodes: Nodes,
        group: Mixing,
        rows: Mapping[ir.Value, ir.Value],
        home: ir.Value,
        shared: Mapping[ir.Value, ir.Value],
    ) -> list[ir.Value]:
        """The results of a group on some texts, [1, places, ...]."""
        replaced = dict(shared)
        for entry, tokens in rows.items():
            replaced[entry] = nodes.op("Gather", tokens, home, axis=0)
        for node in group.nodes:
            nodes.nodes.append(copied(node, replaced))
        results = []
        for value in group.results:
            inner = channels(self._layout, value, APART) or ()
            results.append(nodes.op("Reshape", replaced[value], self._places.ints(1, -1, *inner)))
        return results
