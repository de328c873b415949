"""Where real tokens are: the integers by which they are moved, computed once for each run.

full []                  true where every token is real: the batch is computed as it is, and nothing is moved
tokens [tokens]          the places of real tokens in a flattened batch
positions [tokens]       where each stands in its text
home [batch, sequence]   for each place the real token that is put there: its own, or some other of its text
lengths [batch]          where the last real token of a text stands, counted from 1
pays []                  true where attention runs in buckets: there are as many texts, and enough padding

All but the first are meaningless in a batch without padding, for which they are not computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bct_onnx.graph import tensors
from bct_onnx.graph.branches import Nodes
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.padding.copies import copied, either, nothing
from bct_onnx.graph.padding.unmasked import without_mask

INT64, BOOL = ir.DataType.INT64, ir.DataType.BOOL

SPARE = 8
"""Buckets are used where at least one token of so many is padding: what they cost is a few operators a layer."""


class Places:
    """The integers by which tokens are moved, computed once for each run.

    Args:
        graph: The main graph.
        mask: The input ``[batch, sequence]``.
        hides: Whether the mask is true, or not 0, where a token is padding.
        read: Positions that are kept whatever the mask says.
        buckets: How many buckets of texts there are; 1 for none.
    """

    def __init__(
        self, graph: ir.Graph, mask: ir.Value, *, hides: bool, read: Sequence[int] = (), buckets: int = 1
    ) -> None:
        self._graph, self._mask, self._hides = graph, mask, hides
        self._constants: dict[tuple[int, ...] | int, ir.Value] = {}
        self._leading: ir.Value | None = None
        self.edit = edit = Edit(graph[0], "padding")
        self.sizes = edit.op("Shape", mask, name="sizes")
        self.full = self._full(edit)
        padded, whole = Nodes("padded"), Nodes("full")
        given = self._computed(padded, read, buckets)
        kinds = [INT64] * 4 + [BOOL]
        idle = [nothing(whole, kind) for kind in kinds]
        choice = either("padding/If", self.full, whole, idle, padded, given)
        graph.insert_after(edit.made[-1], choice)
        for value, kind in zip(choice.outputs, kinds, strict=True):
            value.type = ir.TensorType(kind)
        self.tokens, self.positions, self.home, self.lengths, self.pays = choice.outputs
        self.anchor = choice

    def add(self, padded: Nodes, given: ir.Value, whole: Nodes, idle: ir.Value) -> ir.Value:
        """Another value that is computed once for each run, of what is there before any token is.

        Args:
            padded: Nodes that run where something is padded.
            given: What they give.
            whole: Nodes that run where every token is real.
            idle: What they give.
        """
        own = dict(zip(self.anchor.outputs, self.padded.outputs, strict=True))  # it cannot read what it gives itself
        for node in padded.nodes:
            for index, value in enumerate(node.inputs):
                if value in own:
                    node.replace_input_with(index, own[value])
        number = len(self.anchor.outputs)
        self.anchor.resize_outputs(number + 1)
        for branch, nodes, value in (("then_branch", whole, idle), ("else_branch", padded, given)):
            graph = self.anchor.attributes[branch].as_graph()
            graph.extend(nodes.nodes)
            graph.outputs.append(value)
            value.name = f"{self.anchor.name}/{branch}_{number}"
        result = self.anchor.outputs[number]
        result.type = given.type
        return result

    def ints(self, *numbers: int) -> ir.Value:
        """A constant, 1-D int64, that all branches read."""
        if numbers not in self._constants:
            self._constants[numbers] = tensors.constant(self._graph, "numbers", np.array(numbers, np.int64))
        return self._constants[numbers]

    def scalar(self, number: int) -> ir.Value:
        """A constant, rank 0, int64, that all branches read."""
        if number not in self._constants:
            self._constants[number] = tensors.constant(self._graph, "number", np.array(number, np.int64))
        return self._constants[number]

    def leading(self) -> ir.Value:
        """The first two sizes of values of tokens, [2], for a `Reshape`: those of the batch, or 1 and the rest."""
        if self._leading is None:
            edit = Edit(self.anchor, "padding", after=True)
            self._leading = edit.op("Where", self.full, self.sizes, self.ints(1, -1), name="leading")
        return self._leading

    @property
    def padded(self) -> ir.Graph:
        """The branch that runs once where something is padded."""
        return self.anchor.attributes["else_branch"].as_graph()

    def begin_with(self, nodes: Sequence[ir.Node]) -> None:
        """Let that branch begin with these nodes."""
        self.padded.insert_before(self.padded[0], nodes)

    def unpadded(self, node: ir.Node, replaced: dict[ir.Value, ir.Value]) -> ir.Node:
        """A copy of a node for a branch that runs where every token is real."""
        return without_mask(copied(node, replaced), self._mask, hides=self._hides)

    def texts(self, nodes: Nodes) -> ir.Value:
        """How many texts there are, [1]."""
        return nodes.op("Shape", self._mask, start=0, end=1)

    def sequence(self, nodes: Nodes) -> ir.Value:
        """The length of all texts, padding included, [1]."""
        return nodes.op("Shape", self._mask, start=1, end=2)

    def counted(self, nodes: Nodes, length: ir.Value) -> ir.Value:
        """0, 1, 2, ... up to a length [1]."""
        return nodes.op("Range", self.scalar(0), nodes.op("Squeeze", length), self.scalar(1))

    def real(self, nodes: Nodes) -> ir.Value:
        """Where tokens are real, [batch, sequence]."""
        real = self._mask
        if real.dtype != BOOL:
            real = nodes.op("Cast", real, to=BOOL)
        if self._hides:
            return nodes.op("Not", real)
        return real

    def _full(self, edit: Edit) -> ir.Value:
        """Whether the product of all numbers is 1, as that of an empty batch is too."""
        real = self._mask
        if self._hides:
            hidden = real if real.dtype == BOOL else edit.op("Cast", real, to=BOOL, name="hidden")
            real = edit.op("Not", hidden, name="real")
        if self._hides or real.dtype not in (INT64, ir.DataType.INT32, ir.DataType.FLOAT):
            real = edit.op("Cast", real, to=ir.DataType.INT32, name="ones")
            real.dtype = ir.DataType.INT32
        one = edit.scalar("real", 1, real.dtype or INT64)
        return edit.op("Equal", edit.op("ReduceProd", real, keepdims=0, name="all"), one, name="full")

    def _computed(self, nodes: Nodes, read: Sequence[int], buckets: int) -> list[ir.Value]:
        op, ints = nodes.op, self.ints
        texts, sequence = self.texts(nodes), self.sequence(nodes)
        numbers = self.counted(nodes, sequence)
        kept = self._kept(nodes, read, numbers, sequence)
        found = op("Reshape", op("NonZero", op("Reshape", kept, ints(-1))), ints(-1))
        count = op("Max", op("Shape", found), ints(1))
        guarded = op("Concat", found, ints(0), axis=0)  # the first of all where none is real
        tokens = op("Slice", guarded, ints(0), count)
        positions = op("Mod", tokens, sequence)
        ones = op("Cast", kept, to=INT64)
        home = self._home(nodes, ones, count)
        ends = op("Mul", ones, op("Add", numbers, ints(1)))
        lengths = op("ReduceMax", ends, ints(1), keepdims=0)
        slots = op("Mul", texts, sequence)
        spare = op("Mul", op("Sub", slots, count), ints(SPARE))
        enough = op("GreaterOrEqual", texts, ints(buckets))
        pays = op("And", enough, op("GreaterOrEqual", spare, slots))
        return [tokens, positions, home, lengths, pays]

    def _kept(self, nodes: Nodes, read: Sequence[int], numbers: ir.Value, sequence: ir.Value) -> ir.Value:
        kept = self.real(nodes)
        for position in read:
            at = self.ints(position)
            place = at if position >= 0 else nodes.op("Add", at, sequence)
            kept = nodes.op("Or", kept, nodes.op("Equal", numbers, place))
        return kept

    def _home(self, nodes: Nodes, ones: ir.Value, count: ir.Value) -> ir.Value:
        """The number among real tokens of each place; padding takes the last real token before it in its text."""
        op, ints = nodes.op, self.ints
        within = op("CumSum", ones, self.scalar(1))
        lengths = op("ReduceSum", ones, ints(1), keepdims=1)
        before = op("CumSum", lengths, self.scalar(0), exclusive=1)
        nearest = op("Max", op("Sub", within, ints(1)), ints(0))
        return op("Min", op("Add", nearest, before), op("Sub", count, ints(1)))
