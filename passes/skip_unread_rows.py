"""Where a model reads a single token of its last layer, that layer computes no other."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Outcome, Pass, Site, Stage
from bct_onnx.graph import dims, tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.neighbours import op_types, provided
from bct_onnx.graph.single_row import Rows, needed, reshaped
from bct_onnx.graph.tensors import FLOATS

TOKENS, RANK = 1, 3
"""The axis of the tokens in ``[batch, tokens, channels]``, and how many axes that has."""


@dataclasses.dataclass(frozen=True)
class SkipUnreadRows(Pass):
    """Compute that token alone which a model reads of its last layer: the first, or the last.

    Why:
        A classifier reads the first token, and throws away what the last layer has made of all others: all but a
        trifle of its queries, its attention, its feed-forward part and its normalizations. Of the layers before, the
        last one needs every token, for keys and values.

    Before/after:
        ``Gather`` or ``Slice`` of one token moves up through operators that work on each token by itself, and through
        the side of the queries of an ``Attention``, as far as nobody else reads the other tokens; there one ``Slice``
        of each value takes that token. A mask with a row for each query gives one of them.

    Declines:
        A last layer that is an output of the model too, or is read elsewhere, or of which several tokens are read. One
        whose last operator mixes tokens (a mean of them all, say). Tokens that are chosen at run time are no site.

    Options:
        None.

    Promise:
        Exact up to float rounding.

    >>> model = ir.from_onnx_text('''<ir_version: 10, opset_import: ["": 23]>
    ...     g (float[b,s,2] x, float[2,3] w) => (float[b,3] y) <int64 first = {0}, float[b,s,3] z, float[b,s,3] t>
    ...     { z = MatMul (x, w)  t = Tanh (z)  y = Gather <axis = 1> (t, first) }''')
    >>> [node.op_type for node in SkipUnreadRows()(model).model.graph]
    ['Slice', 'MatMul', 'Tanh', 'Gather']
    """

    name: ClassVar[str] = "skip-unread-rows"
    stage: ClassVar[Stage] = Stage.TRIM

    def apply(self, model: ir.Model) -> Applied:
        """Look at every value of tokens of which one is read."""
        tracker = dims.Tracker()
        for node in model.graph:
            tracker.visit(node)
        values = dict.fromkeys(provided(map(_read_at_one_row, model.graph)))
        return Applied.of(model, [_skip(model.graph, value, tracker) for value in values])


def _read_at_one_row(node: ir.Node) -> ir.Value | None:
    """The value ``[batch, tokens, channels]`` of which a node takes the first token or the last."""
    value = node.inputs[0] if _row_of(node) is not None else None
    if value is None or value.producer() is None or value.dtype not in FLOATS or value.shape is None:
        return None
    if value.shape.rank() == RANK and value.shape[TOKENS] != 1:
        return value
    return None


def _row_of(node: ir.Node) -> int | None:
    """Which token a node takes: 0, or -1 for the last; None where it is no such node."""
    if node.domain or node.op_type not in ("Gather", "Slice"):
        return None
    numbers = [tensors.small_constant(value, 1) for value in node.inputs[1:]]
    if any(number is None or number.size != 1 for number in numbers):
        return None
    first, *rest = (int(number.item()) for number in numbers if number is not None)
    if node.op_type == "Gather":
        if node.attributes.get_int("axis", 0) % RANK == TOKENS and first in (0, -1):
            return first
        return None
    end, axis, step = [*rest, 1][:3] if len(rest) > 1 else (0, 0, 0)
    is_last = first == -1 and end >= dims.reading.FAR
    if axis % RANK == TOKENS and step == 1 and (is_last or (first, end) == (0, 1)):
        return first
    return None


def _skip(graph: ir.Graph, value: ir.Value, tracker: dims.Tracker) -> Outcome:
    """Let all that leads to a value compute the row that is read of it."""
    name, readers = value.name or "", list(value.consumers())
    rows = set(map(_row_of, readers))
    if value.is_graph_output():
        return Declined(name, "all of its tokens are an output of the model")
    if None in rows:
        other = next(reader for reader in readers if _row_of(reader) is None)
        return Declined(name, f"{other.op_type} '{other.name}' reads other tokens of it too")
    if len(rows) > 1:
        return Declined(name, "its first token and its last are read")
    region = _region(graph, value, tracker)
    if not region:
        producer = value.producer()
        return Declined(name, f"{producer.op_type if producer else 'nothing'} makes no token of it by itself")
    (row,) = rows
    _take_row(region, row or 0)
    for reader in readers:
        if reader.op_type == "Gather":
            index = np.zeros_like(tensors.small_constant(reader.inputs[1], 1))
            reader.replace_input_with(1, Edit(reader).constant("only", index))
        else:
            edit, result = Edit(reader), reader.outputs[0]
            edit.replace(result, edit.op("Identity", value) if result.is_graph_output() else value)
    before = op_types(region)
    return Site(name, before, f"{'last' if row else 'first'} token alone")


@dataclasses.dataclass(frozen=True)
class _Part:
    """A node of which one row is computed: on which axis of its results that stands, and what it needs."""

    axis: int
    rows: Rows


def _region(graph: ir.Graph, value: ir.Value, tracker: dims.Tracker) -> dict[ir.Node, _Part]:
    """The nodes that lead to a value and of whose results nobody reads another row, in graph order."""
    row_axes, region = {value: TOKENS}, dict[ir.Node, _Part]()
    for node in reversed(graph):
        results = list(filter(ir.Value.uses, node.outputs))
        axes = set(map(row_axes.get, results))
        axis = axes.pop() if len(axes) == 1 else None
        if axis is None or not all(_is_read_by(output, region, value) for output in results):
            continue
        rows = needed(node, axis, tracker.of)
        inputs = None if rows is None else _inputs(node, rows, row_axes)
        if rows is not None and inputs is not None:
            region[node] = _Part(axis, rows)
            row_axes |= inputs
    return dict(reversed(region.items()))


def _inputs(node: ir.Node, rows: Rows, row_axes: dict[ir.Value, int]) -> dict[ir.Value, int] | None:
    """The values of which a node needs one row, and along which axis; None where others take one along another."""
    inputs: dict[ir.Value, int] = {}
    for index, axis in rows.items():
        value = node.inputs[index]
        if value is None or row_axes.get(value, axis) != axis:
            return None
        inputs[value] = axis
    return inputs


def _is_read_by(output: ir.Value, region: dict[ir.Node, _Part], value: ir.Value) -> bool:
    """Whether a result is read by nodes of the region alone, one row of it, or is the value that was asked for."""
    if output is value:
        return True
    inside = all(use.node in region and use.idx in region[use.node].rows for use in output.uses())
    return inside and not output.is_graph_output()


def _take_row(region: dict[ir.Node, _Part], row: int) -> None:
    """Let the nodes of a region compute one row: of what they read from outside it, that row is taken once."""
    taken: dict[ir.Value, ir.Value] = {}
    for node, part in region.items():
        for index, value, axis in _from_outside(node, part, region):
            if value not in taken:
                taken[value] = _row(Edit(node), value, axis, row)
            node.replace_input_with(index, taken[value])
        if node.op_type == "Reshape" and (shape := reshaped(node, part.axis)) is not None:
            node.replace_input_with(1, Edit(node).constant("one_row", shape))
        for output in node.outputs:
            _shorten(output, output, part.axis)


def _from_outside(node: ir.Node, part: _Part, region: dict[ir.Node, _Part]) -> Iterator[tuple[int, ir.Value, int]]:
    """Inputs of which a node needs one row and no node of the region makes that: place, value, axis."""
    for index, axis in part.rows.items():
        value = node.inputs[index]
        if value is not None and value.producer() not in region:
            yield index, value, axis


def _row(edit: Edit, value: ir.Value, axis: int, row: int) -> ir.Value:
    end = dims.reading.FAR if row else 1
    bounds = [edit.shape(name, [number]) for name, number in (("row", row), ("end", end), ("axis", axis))]
    result = edit.op("Slice", value, *bounds, name="row")
    result.name, result.type = f"{value.name}.row", value.type
    _shorten(result, value, axis)
    return result


def _shorten(result: ir.Value, value: ir.Value, axis: int) -> None:
    """Note that one row is left of a value."""
    if value.shape is not None:
        result.shape = ir.Shape([1 if place == axis else size for place, size in enumerate(value.shape)])
