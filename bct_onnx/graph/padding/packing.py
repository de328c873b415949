"""Write a model so that what works on each token runs on real tokens alone.

A value of tokens is `Gather`ed by ``tokens`` where it goes in, and by ``home`` where texts are needed apart (`Places`).
"""

from __future__ import annotations

import onnx_ir as ir

from bct_onnx.graph.edit import Edit
from bct_onnx.graph.padding.buckets import Buckets
from bct_onnx.graph.padding.layout import Layout
from bct_onnx.graph.padding.lowered_shapes import measured
from bct_onnx.graph.padding.places import Places
from bct_onnx.graph.padding.row_wise import APART, FLAT, channels, operands

TOKENS = "real_tokens"
"""Name of the axis that counts real tokens."""


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
        self._given: set[ir.Value] = set()  # outputs that have zeros already
        self._made = {value: axes for node, axes in layout.packed.items() for value in node.outputs}
        ours: set[ir.Node] = set(layout.packed)
        if buckets is not None:
            self._made |= dict.fromkeys(buckets.results, APART)
            ours |= buckets.readers
        self._outside = {value: [use for use in value.uses() if use.node not in ours] for value in self._made}

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
        for value in list(self._places.edit.graph.outputs):
            if self._layout.is_content(value) and self._layout.axes(value) == APART and value not in self._given:
                self._give_out(self._behind(value), value, value)
        for value, axes in self._made.items():
            self._declare(value, value, axes)

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
        node.replace_input_with(1, edit.shape("real_shape", [1, -1, *inner] if axes == APART else [-1, *inner]))

    def _behind(self, value: ir.Value) -> Edit:
        """Where new nodes can read a value and the places."""
        maker = value.producer()
        return Edit(self._places.anchor if maker is None else maker, value.name or "", after=True)

    def _pack(self, value: ir.Value) -> ir.Value:
        """Real tokens of a value that has all, or the rows of their positions."""
        axes = self._layout.axes(value)
        if value in self._packed:
            return self._packed[value]
        edit, places = self._behind(value), self._places
        shape = self._layout.shapes.of(value)
        assert shape is not None
        if not axes:
            at = shape.index(self._layout.sequence)
            packed = edit.op("Gather", value, places.positions, axis=at, name="of_positions")
        elif axes == FLAT:
            packed = edit.op("Gather", value, places.tokens, axis=0, name="real")
        else:
            one_text = edit.op("Reshape", value, self._one_text(edit, value), name="one_text")
            packed = edit.op("Gather", one_text, places.tokens, axis=1, name="real")
        if value.dtype is not None:
            packed.dtype = value.dtype
        return self._packed.setdefault(value, packed)

    def _one_text(self, edit: Edit, value: ir.Value) -> ir.Value:
        """The shape of a value with all its texts as one."""
        inner = channels(self._layout, value, APART)
        if inner is not None:
            return edit.shape("one_text", [1, -1, *inner])
        rest = edit.op("Shape", value, start=APART, name="rest")
        return edit.op("Concat", edit.shape("one_text", [1, -1]), rest, axis=0, name="one_text")

    def _give_back(self, value: ir.Value) -> None:
        """Let all others read a value with padding, and the model's output have zeros there."""
        uses = self._outside[value]
        counting = [use for use in uses if use.node.op_type == "Shape"]
        reading = [use for use in uses if use.node.op_type != "Shape"]
        for use in counting:
            self._measure(use.node, value)
        if not reading and not value.is_graph_output():
            return
        edit = self._behind(value)
        if self._made[value] == FLAT:
            apart = edit.op("Gather", value, self._places.flat_home, axis=0, name="apart")
        else:
            rows = edit.op("Gather", value, self._places.home, axis=1, name="rows")
            apart = edit.op("Squeeze", rows, edit.shape("text", [0]), name="apart")
        self._declare(apart, value, 0)
        for use in reading:
            use.node.replace_input_with(use.idx, apart)
        if value.is_graph_output():
            self._give_out(edit, value, apart)

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

    def _give_out(self, edit: Edit, value: ir.Value, apart: ir.Value) -> None:
        """Zeros where there is padding, under the name of the output."""
        zeroed = zeros_at_padding(edit, self._places, apart, len(self._layout.shapes.of(value) or ()))
        zeroed.type, zeroed.shape = value.type, value.shape
        name, value.name = value.name, f"{value.name}.real"
        graph = self._places.edit.graph
        for index, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[index] = zeroed
        zeroed.name = name
        self._given.add(zeroed)

    def _declare(self, made: ir.Value, value: ir.Value, axes: int) -> None:
        """Type and shape of what stands for ``value``: with as many texts as it has, or packed along ``axes``."""
        shape = self._layout.shapes.of(value)
        if value.type is None or shape is None:
            return
        leading = {APART: (1, TOKENS), FLAT: (TOKENS,), 0: shape[: self._made[value]]}[axes]
        made.type, made.shape = value.type, ir.Shape([*leading, *shape[self._made[value] :]])


def zeros_at_padding(edit: Edit, places: Places, value: ir.Value, rank: int) -> ir.Value:
    """A value ``[batch, sequence, ...]`` with zeros where there is no real token."""
    real = places.real
    if rank > APART:
        real = edit.op("Unsqueeze", real, edit.shape("channels", list(range(APART, rank))), name="real")
    return edit.op("Where", real, value, edit.scalar("nothing", 0, value.dtype or ir.DataType.FLOAT), name="zeroed")
