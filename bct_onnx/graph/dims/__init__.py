"""Shapes with names, and integers that are computed from shapes: `Shape -> Gather -> Unsqueeze -> Concat -> Reshape`.

ONNX shape inference knows ranks, types and fixed sizes, but soon forgets that two dimensions are the same `sequence`.
Here the names are carried on through the operators of transformers, and with them the values of the small integer
tensors in which exporters compute shapes. An unknown dimension is None; a sum of names is spelled `past + sequence`.

A name stands for one size wherever it appears. What is claimed holds for every size, 0 and 1 included, with two
exceptions. Where a model slices a buffer of fixed size up to a named one, the buffer is taken to be long enough; and a
named size in the shape of a ``Reshape`` is taken not to be 0, which would copy another one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.graph import operators, tensors
from bct_onnx.graph.dims import shapes, values
from bct_onnx.graph.dims.arithmetic import Dim, Dims, broadcast
from bct_onnx.graph.dims.reading import SMALL, Symbolic, given, of, refine
from bct_onnx.graph.known import is_sized
from bct_onnx.graph.neighbours import operand

__all__ = ["Dim", "Dims", "Symbolic", "Tracker", "broadcast", "of", "refine"]


_UNFIT = (IndexError, ValueError, TypeError, ZeroDivisionError, OverflowError, StopIteration)
"""What a rule runs into when the operands of a node do not fit each other, and nothing is known of its result: an axis
that is not there, two starts and three ends. Such a node only fails when it runs, if it ever does."""


class Tracker:
    """Follows shapes and shape values through a graph; `visit` the nodes in topological order.

    Attributes:
        values: What is known about small integer tensors, at least one element of which is known.
    """

    def __init__(self) -> None:
        self.values: dict[ir.Value, Symbolic] = {}
        self._outputs: dict[ir.Value, Dims | None] = {}

    def visit(self, node: ir.Node) -> None:
        """Learn the outputs of ``node``: refine their shapes in place, and note the values of integers."""
        if not node.outputs:
            return
        output = node.outputs[0]
        if node.domain != "":
            if operators.identifier(node) in shapes.RULES:
                self._learn(output, self.shape(node))
            return
        self._learn(output, self.shape(node))
        for index in range(1, len(node.outputs) if node.op_type == "Split" else 1):
            self._learn(node.outputs[index], self.shape(node, index))
        result = self._computed(node)
        if result is not None and any(dim is not None for dim in result.flat):
            self.values[output] = result

    def _learn(self, output: ir.Value, shape: Dims | None) -> None:
        if output.is_graph_output():
            self._outputs[output] = shape
        else:
            refine(output, shape)

    def of(self, value: ir.Value | None) -> Dims | None:
        """The shape of a value; of the names that outputs of a graph are declared with, none is relied on.

        Nobody checks those: a model whose output is one token shorter than its input runs, whatever it calls the two.
        """
        if value is None or not value.is_graph_output() or value.is_graph_input():
            return of(value)
        computed, declared = self._outputs.get(value), of(value)
        if computed is not None or declared is None:
            return computed
        return tuple(map(_number, declared))

    def shape(self, node: ir.Node, index: int = 0) -> Dims | None:
        """The shape of the first output, or any of a ``Split``, as it follows from the inputs, whatever is declared."""
        rule = shapes.RULES.get(operators.identifier(node))
        try:
            if node.op_type == "Split":
                return shapes.part(self, node, index)
            if rule is None:
                return None
            return rule(self, node)
        except _UNFIT:
            return None

    def _computed(self, node: ir.Node) -> Symbolic | None:
        rule = values.RULES.get(node.op_type)
        if rule is None or None in node.inputs[:2]:
            return None
        try:
            result = rule(self, node)
        except _UNFIT:
            return None
        if result is None or result.size > SMALL:
            return None
        dtype = node.outputs[0].dtype
        return np.asarray(np.frompyfunc(lambda dim: values.held(dim, dtype), 1, 1)(result), dtype=object)

    def value(self, value: ir.Value | None) -> Symbolic | None:
        """The elements of an integer tensor as far as they are known, in its shape; None if nothing is."""
        if value is None:
            return None
        if value in self.values:
            return self.values[value]
        data = tensors.small_constant(value, SMALL)
        if data is not None and data.dtype.kind in "iub":
            return data.astype(object)
        return None

    def numbers(self, node: ir.Node, index: int) -> npt.NDArray[np.int64] | None:
        """An integer input, in its shape, when all of its elements are known numbers."""
        value = self.value(operand(node, index))
        if value is None or not is_sized(value.flat):
            return None
        return value.astype(np.int64)

    def ints(self, node: ir.Node, index: int) -> list[int] | None:
        """The elements of an integer input when all are known numbers."""
        known = self.numbers(node, index)
        if known is None:
            return None
        return list(map(int, known.flat))

    def axes(self, node: ir.Node) -> list[int] | None:
        """The axes of a node, which are its second input, or in older operator sets an attribute; None if unknown."""
        if "axes" in node.attributes:
            return list(node.attributes["axes"].as_ints())
        return self.ints(node, 1)

    def axes_and_steps(self, node: ir.Node, count: int) -> tuple[list[int], list[int]] | None:
        """Those of a ``Slice`` with so many starts, where they are left out too; None where one is not known."""
        axes: list[int] | None = list(range(count))
        steps: list[int] | None = [1] * count
        if given(node, 3):
            axes = self.ints(node, 3)
        if given(node, 4):
            steps = self.ints(node, 4)
        if axes is None or steps is None:
            return None
        return (axes, steps)

    def target(self, node: ir.Node, index: int) -> list[Dim] | None:
        """The sizes that an input asks for, as far as they are known; None where their number is not."""
        sizes = self.value(node.inputs[index])
        if sizes is None or sizes.ndim != 1:
            return None
        return list(sizes)


def _number(dim: Dim) -> Dim:
    if isinstance(dim, int):
        return dim
    return None
