"""Where real tokens are: the integers by which they are moved, computed once for each run.

kept [batch, sequence]   true where a token is real
tokens [tokens]          the places of real tokens in a flattened batch
home [batch, sequence]   for each place the real token that is put there: its own, or some other of its text
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from bct_onnx.graph.edit import Edit

INT64 = ir.DataType.INT64


class Places:
    """The integers by which tokens are moved, computed once for each run.

    Args:
        graph: The main graph.
        mask: The input ``[batch, sequence]``.
        hides: Whether the mask is true, or not 0, where a token is padding.
        read: Positions that are kept whatever the mask says.
    """

    def __init__(self, graph: ir.Graph, mask: ir.Value, *, hides: bool, read: Sequence[int] = ()) -> None:
        first = graph[0]
        edit = Edit(first, "padding")
        self.edit = edit
        self.sizes = edit.op("Shape", mask, name="sizes")
        self.texts = edit.op("Shape", mask, start=0, end=1, name="texts")
        self.sequence = edit.op("Shape", mask, start=1, end=2, name="sequence")
        self.slots = edit.op("Mul", self.texts, self.sequence, name="slots")
        self.numbers = self._numbers()
        self.real = self._real(mask, hides=hides)
        self.kept = self._kept(read)
        flat = edit.shape("flat", [-1])
        self._zero, self._one = edit.shape("zero", [0]), edit.shape("one", [1])
        found = edit.op("Reshape", edit.op("NonZero", edit.op("Reshape", self.kept, flat)), flat, name="found")
        self.count = edit.op("Max", edit.op("Shape", found), self._one, name="count")
        guarded = edit.op("Concat", found, self._zero, axis=0, name="guarded")  # the first of all where none is real
        self.tokens = edit.op("Slice", guarded, self._zero, self.count, name="tokens")
        self.positions = edit.op("Mod", self.tokens, self.sequence, name="positions")
        self.home = self._home(self.count)
        self.flat_home = edit.op("Reshape", self.home, flat, name="flat_home")
        self.anchor = edit.made[-1]

    def _real(self, mask: ir.Value, *, hides: bool) -> ir.Value:
        real = mask
        if mask.dtype != ir.DataType.BOOL:
            real = self.edit.op("Cast", mask, to=ir.DataType.BOOL, name="true")
        return self.edit.op("Not", real, name="not_hidden") if hides else real

    def _kept(self, read: Sequence[int]) -> ir.Value:
        edit, kept = self.edit, self.real
        for position in read:
            at = edit.shape("read", [position])
            place = at if position >= 0 else edit.op("Add", at, self.sequence, name="from_end")
            kept = edit.op("Or", kept, edit.op("Equal", self.numbers, place, name="is_read"), name="kept")
        return kept

    def _numbers(self) -> ir.Value:
        """0, 1, 2, ..., [sequence]."""
        zero, one = self.edit.scalar("start", 0, INT64), self.edit.scalar("step", 1, INT64)
        length = self.edit.op("Squeeze", self.sequence, self.edit.shape("axis", [0]), name="length")
        return self.edit.op("Range", zero, length, one, name="numbers")

    def _home(self, count: ir.Value) -> ir.Value:
        """The number among real tokens of each place; padding takes the last real token before it in its text."""
        edit = self.edit
        ones = edit.op("Cast", self.kept, to=INT64, name="ones")
        within = edit.op("CumSum", ones, edit.scalar("axis_1", 1, INT64), name="within")
        lengths = edit.op("ReduceSum", ones, self._one, keepdims=1, name="lengths")
        before = edit.op("CumSum", lengths, edit.scalar("axis_0", 0, INT64), exclusive=1, name="before")
        nearest = edit.op("Max", edit.op("Sub", within, self._one, name="last"), edit.scalar("none", 0, INT64))
        among = edit.op("Add", nearest, before, name="among")
        return edit.op("Min", among, edit.op("Sub", count, self._one, name="most"), name="home")
