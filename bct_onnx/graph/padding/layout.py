"""Which nodes of a model run on real tokens alone, and which have to see texts apart: attention, pooling, the mask."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection

import onnx_ir as ir

from bct_onnx.graph import operators, tensors
from bct_onnx.graph.dims import Dim
from bct_onnx.graph.lengths import COUNTING
from bct_onnx.graph.neighbours import of_types, outputs_of, producers, reached, read_by, uses_outside
from bct_onnx.graph.padding.lowered_shapes import LoweredShapes
from bct_onnx.graph.padding.row_wise import APART, row_wise
from bct_onnx.graph.tensors import FLOATS
from bct_onnx.graph.walk import in_order

_MOST = 8
"""Positions that a model reads by their numbers, the first or the last one say; more of them are a part of a text."""

_DECIDING = {"ArgMax", "ArgMin", "TopK", "Hardmax", "Round", "Floor", "Ceil", "Sign", *operators.named("test")}
"""What changes these a little they mostly give unchanged: which expert a text goes to, say."""

_PARTS = ("Split",)
"""Operators that give parts of what they read, which is less to move than all parts one by one."""


@dataclasses.dataclass(frozen=True)
class Mixing:
    """Nodes through which tokens see each other, connected with one another.

    Attributes:
        nodes: In graph order.
        entries: Values of tokens that they read, those of which they only need the shape too.
        results: What others read of them.
        free: Nodes before them that know nothing of tokens but how many there are: masks, positions, sizes.
    """

    nodes: tuple[ir.Node, ...]
    entries: tuple[ir.Value, ...]
    results: tuple[ir.Value, ...]
    free: tuple[ir.Node, ...]


def is_read_apart(value: ir.Value, inside: Collection[ir.Node]) -> bool:
    """Whether others than some nodes read the numbers of a value, not its sizes alone, or the graph gives it."""
    if value.is_graph_output():
        return True
    return any(user.op_type not in COUNTING for user, _ in uses_outside(value, inside))


class Layout:
    """Sorts the nodes of a model's main graph, which has to be in order.

    Args:
        model: The model.
        mask: The input ``[batch, sequence]`` that tells real tokens from padding.
        apart: Nodes that run with padding all the same, for what comes of it reaches others; with all before them.

    Attributes:
        shapes: What is known of shapes.
        packed: Nodes that work on each token by itself, and the layout of their results.
        mixing: All others that read numbers of tokens.
        put_off: Of these the ones that only take apart what others of them read.
        mask: The mask.
        inputs: The model's inputs.
        outputs: The model's outputs, as they were.
    """

    def __init__(self, model: ir.Model, mask: ir.Value, apart: frozenset[ir.Node] = frozenset()) -> None:
        self.shapes = LoweredShapes()
        self.packed: dict[ir.Node, int] = {}
        self.mixing: list[ir.Node] = []
        self.mask = mask
        self.apart = apart
        self._graph = model.graph
        self.inputs = list(itertools.filterfalse(ir.Value.is_initializer, model.graph.inputs))
        self.outputs = list(model.graph.outputs)
        self._leading = (self.shapes.of(mask) or ())[:APART]
        self._axes: dict[ir.Value, int] = {}
        self._content: set[ir.Value] = set()
        self._masking = {mask}
        self._constant = set(model.graph.initializers.values())
        for value in model.graph.inputs:
            if value.dtype in FLOATS and self.axes(value) and len(self.shapes.of(value) or ()) > APART:
                self._content.add(value)
        for node in model.graph:
            self._sort(node)
        self.put_off: set[ir.Node] = set()
        self._sort_parts()

    def _sort_parts(self) -> None:
        """Let those that mix tokens split what they read: one move of all parts instead of one for each."""
        put_off = self.put_off
        for node in reversed(self.packed):
            parts = list(filter(ir.Value.uses, node.outputs))
            users = node.successors()
            ends = not any(map(ir.Value.is_graph_output, parts)) and bool(users)
            if node.op_type in _PARTS and ends and put_off.union(self.mixing).issuperset(users):
                put_off.add(node)
        for node in put_off:
            del self.packed[node]
        if put_off:
            self.mixing = in_order(put_off.union(self.mixing), self._graph)

    def _sort(self, node: ir.Node) -> None:
        self.shapes.visit(node)
        reads = read_by(node)
        if self._constant.issuperset(reads):
            self._constant.update(node.outputs)
            return
        counts = node.op_type in COUNTING
        if not counts and not self._masking.isdisjoint(reads):
            self._masking.update(node.outputs)
        if node in self.apart:
            if not self.apart.issuperset(node.successors()):
                self._content.update(node.outputs)
            return
        if axes := row_wise(self, node):
            self.packed[node] = axes
            self._axes.update(dict.fromkeys(node.outputs, axes))
        elif counts or self._content.isdisjoint(reads):
            return
        else:
            self.mixing.append(node)
        self._content.update(node.outputs)

    @property
    def sequence(self) -> Dim:
        """The length of all texts, padding included."""
        return self._leading[1]

    def axes(self, value: ir.Value | None) -> int:
        """See `View`."""
        if value is None:
            return 0
        if value in self._axes:
            return self._axes[value]
        shape = self.shapes.of(value)
        if shape is not None and len(shape) >= APART and shape[:APART] == self._leading:
            return APART
        return 0

    def is_content(self, value: ir.Value | None) -> bool:
        """See `View`."""
        return value in self._content

    def is_masking(self, value: ir.Value | None) -> bool:
        """See `View`."""
        return value in self._masking

    def is_constant(self, value: ir.Value | None) -> bool:
        """See `View`."""
        return value in self._constant

    def by_position(self, value: ir.Value | None, rank: int) -> bool:
        """See `View`."""
        shape = self.shapes.of(value)
        if shape is None or self.is_content(value) or self.is_masking(value):
            return False
        aligned = ((1,) * rank + shape)[-rank:]
        return len(shape) in (rank - 1, rank) and aligned[:APART] == (1, self._leading[1])

    def stand_in(self, new: ir.Value, old: ir.Value) -> None:
        """Let all that is known of a value hold for another."""
        self.shapes.stand_in(new, old)
        self._axes[new] = self.axes(old)
        self._content.add(new)

    def components(self) -> list[Mixing]:
        """The nodes that mix tokens, in groups that hand values of texts apart to one another."""
        group: dict[ir.Node, int] = {}
        for node in self.mixing:
            before = {group[maker] for value in read_by(node) if (maker := value.producer()) in group}
            name = min(before, default=len(group))
            group[node] = name
            for other, its in group.items():
                if its in before:
                    group[other] = name
        named: dict[int, list[ir.Node]] = {}
        for node in self.mixing:
            named.setdefault(group[node], []).append(node)
        components = list(map(self._component, named.values()))
        return [component for component in components if component.results]

    def _component(self, nodes: list[ir.Node]) -> Mixing:
        inside, entries, free = set(nodes), dict[ir.Value, None](), set[ir.Node]()
        queue = read_by(*nodes)
        while queue:
            value = queue.pop()
            maker = value.producer()
            if maker in inside or maker in free or value in self._constant:
                continue
            if self.is_content(value):
                entries[value] = None
            elif maker is not None:
                free.add(maker)
                queue += read_by(maker)
        results = [value for value in outputs_of(nodes) if is_read_apart(value, inside)]
        return Mixing(tuple(nodes), tuple(reversed(entries)), tuple(results), tuple(in_order(free, self._graph)))

    def decided_by(self, mixing: Mixing) -> list[ir.Value]:
        """Numbers of tokens that these nodes compute and decide by, which no others read."""
        inside = set(outputs_of(mixing.nodes)).difference(mixing.results)
        deciding = of_types(mixing.nodes, *_DECIDING)
        return [value for value in dict.fromkeys(read_by(*deciding)) if value in inside and self.is_content(value)]

    def before(self, mixing: Mixing) -> frozenset[ir.Node]:
        """Nodes that have numbers of tokens and lead to these, and these."""
        return frozenset(reached(mixing.nodes, self._leading_to))

    def _leading_to(self, node: ir.Node) -> list[ir.Node]:
        return [maker for maker in producers(read_by(node)) if not self._content.isdisjoint(maker.outputs)]

    def read_positions(self) -> tuple[int, ...]:
        """Positions of each text that the model reads by their numbers, whatever the mask says of them."""
        positions: set[int] = set()
        for node in self.mixing:
            if self.axes(node.inputs[0]) == APART and self.is_content(node.inputs[0]):
                positions.update(self._read(node))
        return tuple(sorted(positions))

    def _read(self, node: ir.Node) -> list[int]:
        if node.op_type == "Gather" and node.attributes.get_int("axis", 0) == 1:
            numbers = tensors.small_constant(node.inputs[1], _MOST)
            if numbers is None:
                return []
            return list(map(int, numbers.flat))
        if node.op_type == "Slice" and len(node.inputs) > 3 and self.shapes.ints(node, 3) == [1]:
            start, end = self.shapes.ints(node, 1), self.shapes.ints(node, 2)
            if start and end and 0 <= end[0] - start[0] <= _MOST:
                return list(range(start[0], end[0]))
        return []
