"""Write a model so that what works on each token runs on real tokens alone.

Where every token is real, values of tokens stay as they are. Else they are ``[1, tokens, ...]``: gathered by ``tokens``
where they go in, and by ``home`` where texts are needed apart (`Places`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from bct_onnx.graph import provenance, walk
from bct_onnx.graph.branches import Nodes
from bct_onnx.graph.edit import Edit, take_place
from bct_onnx.graph.neighbours import is_read, uses_outside
from bct_onnx.graph.padding.buckets import Buckets
from bct_onnx.graph.padding.copies import copied, either
from bct_onnx.graph.padding.early import early, put_off
from bct_onnx.graph.padding.layout import Layout
from bct_onnx.graph.padding.lowered_shapes import measured
from bct_onnx.graph.padding.places import Places
from bct_onnx.graph.padding.row_wise import APART, FLAT, channels, operands

LEADING = {APART: ("packed_texts", "packed_tokens"), FLAT: ("real_tokens",)}
"""Names of the axes that count tokens: as many as the batch has where it is computed as it is, else 1 and real ones."""


class Packing:
    """Moves the nodes of a `Layout` over to real tokens.

    Args:
        layout: What its nodes do.
        places: Where real tokens are.
        buckets: What runs nodes that mix tokens on real ones.
    """

    def __init__(self, layout: Layout, places: Places, buckets: Buckets | None = None) -> None:
        self._layout = layout
        self._places = places
        self._packed: dict[ir.Value, ir.Value] = {}
        self._early = early(layout, places.edit.graph)
        self._readers: dict[ir.Node, list[ir.Value]] = {}  # nodes that alone read values with padding
        self._given: set[ir.Value] = set()  # outputs that have zeros already
        self._made: dict[ir.Value, int] = {}
        for node, axes in layout.packed.items():
            self._made |= dict.fromkeys(node.outputs, axes)
        ours: set[ir.Node] = set(layout.packed)
        if buckets is not None:
            self._made |= dict.fromkeys(buckets.results, APART)
            ours |= buckets.readers
        self._outside = {value: uses_outside(value, ours) for value in self._made}

    def run(self) -> None:
        """Change the graph. What `Layout.mixing` has stays as it is, and reads values with padding."""
        for node, axes in self._layout.packed.items():
            self._give_shape(node, axes)
            for index in operands(node):
                value = node.inputs[index]
                if value is not None and value not in self._made and self._has_rows(value, node):
                    node.replace_input_with(index, self._pack(value))
        for value in self._made:
            self._give_back(value)
        for node, values in self._readers.items():
            self._read_apart(node, values)
        for value in list(self._places.edit.graph.outputs):
            if self._layout.is_content(value) and self._layout.axes(value) == APART and value not in self._given:
                self._give_out(value)
        for value, axes in self._made.items():
            self._declare(value, value, axes)
        put_off(self._places, self._early)

    def _has_rows(self, value: ir.Value, node: ir.Node) -> bool:
        rank = len(self._layout.shapes.of(node.outputs[0]) or ())
        by_position = self._layout.packed[node] == APART and self._layout.by_position(value, rank)
        return by_position or self._layout.axes(value) != 0

    def _give_shape(self, node: ir.Node, axes: int) -> None:
        """Let what reads a shape read that of real tokens."""
        if node.op_type not in ("Reshape", "Expand"):
            return
        whole, edit = measured(node.inputs[1]), Edit(node)
        if node.op_type == "Expand":
            assert whole is not None
            source = whole if whole in self._made else self._pack(whole)
            node.replace_input_with(1, edit.op("Shape", source, name="real_shape"))
            return
        inner = channels(self._layout, whole if whole is not None else node.outputs[0], axes)
        if inner is None:
            inner = channels(self._layout, node.outputs[0], axes)
        assert inner is not None
        if axes == FLAT:
            shape = edit.shape("real_shape", [-1, *inner])
        elif self._layout.axes(node.inputs[0]) == APART and not node.attributes.get_int("allowzero", 0):
            shape = edit.shape("real_shape", [0, 0, *inner])  # the first two sizes of what it reads
        else:
            shape = edit.op("Concat", self._places.leading(), edit.shape("inner", inner), axis=0, name="real_shape")
        node.replace_input_with(1, shape)

    def _behind(self, value: ir.Value) -> Edit:
        """Where new nodes can read a value and the places."""
        maker = value.producer()
        return Edit(self._places.anchor if maker is None else maker, value.name or "", after=True)

    def _unless_full(self, value: ir.Value, name: str, written: Callable[[Nodes, ir.Value], ir.Value]) -> ir.Value:
        """A value as it is where every token is real, else what is written of it."""
        full, padded = Nodes("full"), Nodes("padded")
        same, other = full.op("Identity", value), written(padded, value)
        maker = value.producer()
        choice = either(f"{value.name}/{name}", self._places.full, full, [same], padded, [other])
        self._places.edit.graph.insert_after(self._places.anchor if maker is None else maker, choice)
        choice.outputs[0].type = value.type
        return choice.outputs[0]

    def _pack(self, value: ir.Value) -> ir.Value:
        """Real tokens of a value that has all, or the rows of their positions."""
        if value in self._packed:
            return self._packed[value]
        if value.is_graph_input() or value.producer() in self._early:
            full, padded = Nodes("full"), Nodes("padded")
            same, real = full.op("Identity", value), self._real_tokens(padded, value)
            same.type = real.type = value.type
            return self._packed.setdefault(value, self._places.add(padded, real, full, same))
        return self._packed.setdefault(value, self._unless_full(value, "real", self._real_tokens))

    def _real_tokens(self, nodes: Nodes, value: ir.Value) -> ir.Value:
        axes, shape, places = self._layout.axes(value), self._layout.shapes.of(value), self._places
        assert shape is not None
        if not axes:
            return nodes.op("Gather", value, places.positions, axis=shape.index(self._layout.sequence))
        if axes == FLAT:
            return nodes.op("Gather", value, places.tokens, axis=0)
        inner = channels(self._layout, value, APART)
        one_text = places.ints(1, -1, *(inner or ()))
        if inner is None:
            one_text = nodes.op("Concat", one_text, nodes.op("Shape", value, start=APART), axis=0)
        return nodes.op("Gather", nodes.op("Reshape", value, one_text), places.tokens, axis=1)

    def _give_back(self, value: ir.Value) -> None:
        """Let all others read a value with padding, and the model's output have zeros there."""
        uses = self._outside[value]
        readers = {node for node, _ in uses if node.op_type != "Shape"}
        for node, _ in uses:
            if node not in readers:
                self._measure(node, value)
        if len(readers) == 1 and (node := readers.pop()).graph is self._places.edit.graph and _is_plain(node):
            self._readers.setdefault(node, []).append(value)
        elif readers:
            apart = self._unless_full(value, "apart", self._apart)
            self._declare(apart, value, 0)
            for node, index in uses:
                if node in readers:
                    node.replace_input_with(index, apart)
        if value.is_graph_output():
            self._give_out(value)

    def _apart(self, nodes: Nodes, value: ir.Value, home: ir.Value | None = None) -> ir.Value:
        """A packed value with padding, or such places of it as are asked for."""
        home = self._places.home if home is None else home
        if self._made[value] == FLAT:
            return nodes.op("Gather", value, nodes.op("Reshape", home, self._places.ints(-1)), axis=0)
        return nodes.op("Squeeze", nodes.op("Gather", value, home, axis=1), self._places.ints(0))

    def _read_apart(self, node: ir.Node, values: Sequence[ir.Value]) -> None:
        """Let a node that alone reads values read them as they are where every token is real, else with padding."""
        full, padded = Nodes("full"), Nodes("padded")
        full.nodes.append(self._places.unpadded(node, {}))
        if list(values) == [node.inputs[0]] and self._made[values[0]] == APART and self._position_axis(node) == 1:
            some = copied(node, {values[0]: self._places.home})
            some.outputs[0].type = ir.TensorType(ir.DataType.INT64)
            padded.nodes.append(some)
            others = [self._apart(padded, values[0], some.outputs[0])]
        else:
            padded.nodes.append(copied(node, {value: self._apart(padded, value) for value in values}))
            others = list(padded.nodes[-1].outputs)
        label = f"{node.name or node.op_type}/If"
        choice = either(label, self._places.full, full, list(full.nodes[0].outputs), padded, others)
        self._places.edit.graph.insert_before(node, choice)
        for old, new in zip(node.outputs, choice.outputs, strict=True):
            new.type, new.shape = old.type, old.shape
            if self._layout.is_content(old):
                self._layout.stand_in(new, old)
            name, old.name = old.name, None
            old.replace_all_uses_with(new, replace_graph_outputs=True)
            new.name = name
        provenance.replaced([choice], [node])
        self._places.edit.graph.remove(node, safe=True)

    def _position_axis(self, node: ir.Node) -> int | None:
        """The one axis of which a node takes a part, by numbers that are not of tokens; None of other nodes."""
        if node.op_type == "Gather" and not node.domain:
            return node.attributes.get_int("axis", 0)
        over = self._layout.shapes.ints(node, 3) if node.op_type == "Slice" and len(node.inputs) > 3 else None
        return over[0] if over and len(over) == 1 else None

    def _measure(self, node: ir.Node, value: ir.Value) -> None:
        """A ``Shape`` of what is packed now gives the sizes that it had before."""
        edit = Edit(node)
        rest = edit.op("Shape", value, start=self._made[value], name="rest")
        sizes = self._places.sizes
        if self._made[value] == FLAT:
            sizes = edit.op("ReduceProd", sizes, keepdims=1, name="all")
        whole = edit.op("Concat", sizes, rest, axis=0, name="sizes")
        start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", 2**31 - 1)
        part = edit.op("Slice", whole, edit.shape("start", [start]), edit.shape("end", [end]), name="part")
        edit.replace(node.outputs[0], part)

    def _give_out(self, value: ir.Value) -> None:
        """Zeros where there is padding, under the name of the output."""
        zeroed = self._unless_full(value, "zeroed", self._zeroed)
        zeroed.type, zeroed.shape = value.type, value.shape
        take_place(value, zeroed, "real")
        self._given.add(zeroed)

    def _zeroed(self, nodes: Nodes, value: ir.Value) -> ir.Value:
        """A value ``[batch, sequence, ...]`` with zeros where there is no real token."""
        apart = self._apart(nodes, value) if value in self._made else value
        real, rank = self._places.real(nodes), len(self._layout.shapes.of(value) or ())
        if rank > APART:
            real = nodes.op("Unsqueeze", real, self._places.ints(*range(APART, rank)))
        zero = self._places.edit.scalar("nothing", 0, value.dtype or ir.DataType.FLOAT)
        return nodes.op("Where", real, apart, zero)

    def _declare(self, made: ir.Value, value: ir.Value, axes: int) -> None:
        """Type and shape of what stands for ``value``: with as many texts as it has, or packed along ``axes``."""
        shape = self._layout.shapes.of(value)
        if value.type is None or shape is None:
            return
        leading = LEADING.get(axes, shape[: self._made[value]])
        made.type, made.shape = value.type, ir.Shape([*leading, *shape[self._made[value] :]])


def _is_plain(node: ir.Node) -> bool:
    """Whether a node can be written twice: everybody reads what it gives, and no graph is inside it."""
    if walk.holds_graphs(node):
        return False
    return all(map(is_read, node.outputs))
