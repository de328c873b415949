"""Transposes that passes put around products, and how they go again where two of them meet.

A layer that works on the axis of channels in front (a pointwise convolution, a weight on the left) becomes a product
between two transposes. Where another such layer follows, the two between them undo each other, also with operators
between that look at each element alone: those then work on the other layout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from bct_onnx.graph import dims, operators
from bct_onnx.graph.edit import Edit, drop_dead, take_place
from bct_onnx.graph.known import permuted, type_of
from bct_onnx.graph.names import places_of
from bct_onnx.graph.neighbours import outputs_of, provided, uses_outside

Perm = tuple[int, ...]

_ELEMENTWISE = operators.named("arithmetic", "activation", "cast") | {"Identity"}
_ALONG_AXIS = ("Concat", "Split")
_COPIED = 1 << 16
"""Constants of fewer values are laid out anew beside what they were."""


class TypedEdit(Edit):
    """An edit whose values have the type of what is replaced and, as far as it is known, a shape at once."""

    def __init__(self, anchor: ir.Node, tracker: dims.Tracker) -> None:
        super().__init__(anchor)
        self._dtype, self._tracker = anchor.outputs[0].dtype, tracker

    def op(self, op_type: str, *inputs: ir.Value | None, **options: Any) -> ir.Value:
        """Add one node as `Edit` does."""
        result = super().op(op_type, *inputs, **options)
        for output in self.made[-1].outputs:
            output.type = type_of(self._dtype)
        self._tracker.visit(self.made[-1])
        for output in self.made[-1].outputs:
            output.type = None if output.shape is None else output.type  # a type alone cannot be written
        return result

    def transposed(self, value: ir.Value, perm: Sequence[int], name: str = "turned") -> ir.Value:
        """A value with its axes in another order; a transposition that made it is taken together with this one."""
        producer = value.producer()
        if producer is not None and producer.op_type == "Transpose" and not producer.domain:
            before = producer.attributes.get_ints("perm")
            if before is not None and len(before) == len(perm) and producer.inputs[0] is not None:
                value, perm = producer.inputs[0], permuted(before, perm)
        if list(perm) == sorted(perm):
            return value
        return self.op("Transpose", value, perm=list(perm), name=name)


def cancel(graph: ir.Graph, new: Collection[ir.Node]) -> int:
    """Let transposes go that undo each other across elementwise operators; return how many fewer there are.

    Only connected parts are looked at that hold a node of ``new``; each is changed where that leaves fewer transposes.
    """
    saved = 0
    for perm in sorted({perm for node in new if node.graph is graph and (perm := _perm(node))}):
        for region in _regions(graph, perm):
            if region.nodes & set(new) and (gain := region.gain()) > 0:
                region.turn()
                saved += gain
    if saved:
        tracker = dims.Tracker()
        for node in graph:
            tracker.visit(node)
    return saved


@dataclasses.dataclass
class _Region:
    """Nodes that are connected through values of the layout that ``perm`` gives, and can do with the one before it."""

    perm: Perm
    nodes: set[ir.Node]
    order: list[ir.Node]

    def gain(self) -> int:
        """How many transposes less there would be."""
        inside = sum(_perm(node) == self.perm for node in self.order)
        values = list(outputs_of(self.order))
        after = sum(bool(self._others(value)) or value.is_graph_output() for value in values)
        undone = 0
        for value in values:
            undone += sum(_perm(node) == _inverse(self.perm) for node, _ in uses_outside(value, self.nodes))
        return inside + undone - after

    def turn(self) -> None:
        """Let all nodes work on the layout before the transposes, and transpose what others read."""
        inverse = _inverse(self.perm)
        before: dict[ir.Value, ir.Value] = {}
        for node in self.order:
            if _perm(node) == self.perm:
                source = node.inputs[0]
                assert source is not None
                before[node.outputs[0]] = source
                continue
            edit = Edit(node)
            for index, value in enumerate(node.inputs):
                if value in before:
                    node.replace_input_with(index, before[value])
                elif value is not None and node.op_type != "Split":  # its sizes are no data of a layout
                    node.replace_input_with(index, _laid_out(edit, value, inverse))
            if node.op_type in _ALONG_AXIS:
                axis = node.attributes.get_int("axis", 0) % len(self.perm)
                node.attributes["axis"] = ir.AttrInt64("axis", self.perm[axis])
            for output in node.outputs:
                before[output] = output
        for value, turned in before.items():
            self._leave(value, turned, inverse)
        drop_dead([node for node in self.order if _perm(node) == self.perm])

    def _leave(self, value: ir.Value, turned: ir.Value, inverse: Perm) -> None:
        """What is outside reads a value as it was: by the transposition that is there, by one after it, or by none."""
        others, producer, shape = self._others(value), value.producer(), value.shape
        seen = bool(others) or value.is_graph_output()
        for node, _ in uses_outside(value, self.nodes):
            if (other := _perm(node)) is not None and len(other) == len(self.perm):
                _compose(node, turned, permuted(self.perm, other))
        if turned is not value:
            return  # its own transposition stays for whoever else reads it
        assert producer is not None
        if seen:
            edit = Edit(producer, value.name or "", after=True)
            back = edit.op("Transpose", value, perm=list(self.perm), name="back")
            back.type, back.shape = value.type, shape
            for node, index in others:
                node.replace_input_with(index, back)
            _give_output(value, back)
        if value.is_graph_output():
            return  # it became one in place of its transposition, and is declared as that was
        if shape is not None and len(shape) == len(inverse):  # what is declared may be wrong
            value.shape = ir.Shape(permuted(tuple(shape), inverse))

    def _others(self, value: ir.Value) -> list[tuple[ir.Node, int]]:
        return [(node, index) for node, index in uses_outside(value, self.nodes) if _perm(node) is None]


def _compose(node: ir.Node, value: ir.Value, perm: list[int]) -> None:
    """Let a ``Transpose`` read ``value`` by ``perm``; one that changes nothing goes."""
    if perm != sorted(perm):
        node.replace_input_with(0, value)
        node.attributes["perm"] = ir.AttrInt64s("perm", perm)
        return
    edit, output, producer = Edit(node), node.outputs[0], value.producer()
    is_own = producer is not None and producer.graph is node.graph
    if output.is_graph_output() and (value.is_graph_output() or not is_own):
        value = edit.op("Identity", value)  # two outputs cannot be one value, nor one of a branch a value outside of it
    elif output.is_graph_output():
        _give_output(output, value)
    edit.replace(output, value)


def _give_output(value: ir.Value, other: ir.Value) -> None:
    """Let ``other`` be the output of the graph that ``value`` is, if it is one: under its name, as it is declared."""
    if value.is_graph_output():
        take_place(value, other, "turned")
        other.type, other.shape = value.type, value.shape


def _regions(graph: ir.Graph, perm: Perm) -> list[_Region]:
    """The connected parts of a graph between transposes by ``perm`` and whatever else reads their values."""
    owner: dict[ir.Value, _Region] = {}
    for node in graph:
        joined = provided(map(owner.get, provided(node.inputs)))
        if _perm(node) == perm and not joined:
            region = _Region(perm, set(), [])
        elif joined and _fits(node, owner, len(perm)):
            region = joined[0]
            for other in joined[1:]:
                if other is not region:
                    region.nodes |= other.nodes
                    region.order += other.order
                    owner.update({value: region for value, owned in owner.items() if owned is other})
        else:
            continue
        region.nodes.add(node)
        region.order.append(node)
        owner.update(dict.fromkeys(node.outputs, region))
    regions = {id(region): region for region in owner.values()}
    place = places_of(graph)
    for region in regions.values():
        region.order.sort(key=place.__getitem__)
    return list(regions.values())


def _fits(node: ir.Node, owner: Collection[ir.Value], rank: int) -> bool:
    """Whether a node gives the same in another layout of all its inputs."""
    if node.domain or node.op_type not in (*_ELEMENTWISE, *_ALONG_AXIS):
        return False
    if node.op_type == "Split":
        return node.inputs[0] in owner
    others = [value for value in node.inputs if value is not None and value not in owner]
    return all(node.op_type != "Concat" and _is_small_constant(value, rank) for value in others)


def _is_small_constant(value: ir.Value, rank: int) -> bool:
    constant = value.const_value if value.is_initializer() else None
    return constant is not None and constant.size <= _COPIED and len(constant.shape) <= rank


def _laid_out(edit: Edit, value: ir.Value, inverse: Perm) -> ir.Value:
    """A constant that broadcasts in the other layout as it did in this one."""
    constant = value.const_value
    if constant is None or constant.size == 1:
        return value
    array = constant.numpy()
    whole = array.reshape((1,) * (len(inverse) - array.ndim) + array.shape).transpose(inverse)
    while whole.ndim and whole.shape[0] == 1:
        whole = whole[0]
    return edit.constant(value.name or "constant", np.ascontiguousarray(whole))


def _perm(node: ir.Node) -> Perm | None:
    """The permutation of a computed ``Transpose``."""
    if node.op_type != "Transpose" or node.domain or "perm" not in node.attributes:
        return None
    return tuple(node.attributes["perm"].as_ints())


def _inverse(perm: Perm) -> Perm:
    return tuple(map(int, np.argsort(perm)))
