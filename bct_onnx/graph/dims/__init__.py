"""Shapes with names, and integers that are computed from shapes: `Shape -> Gather -> Unsqueeze -> Concat -> Reshape`.

ONNX shape inference knows ranks, types and fixed sizes, but soon forgets that two dimensions are the same `sequence`.
Here the names are carried on through the operators of transformers, and with them the values of the small integer
tensors in which exporters compute shapes. An unknown dimension is None; a sum of names is spelled `past + sequence`.

A name stands for one size wherever it appears. Where a model slices a buffer up to a named size, the buffer is taken to
be long enough; the model could not run otherwise.
"""

from __future__ import annotations

import onnx_ir as ir

from bct_onnx.graph import tensors
from bct_onnx.graph.dims import shapes, values
from bct_onnx.graph.dims.arithmetic import Dim, Dims, broadcast
from bct_onnx.graph.dims.reading import SMALL, Symbolic, of, refine

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

    def visit(self, node: ir.Node) -> None:
        """Learn the outputs of ``node``: refine their shapes in place, and note the values of integers."""
        if node.domain != "" or not node.outputs:
            return
        output = node.outputs[0]
        refine(output, self.shape(node))
        result = self._computed(node)
        if result is not None and result.size <= SMALL and any(dim is not None for dim in result.flat):
            self.values[output] = result

    def shape(self, node: ir.Node) -> Dims | None:
        """The shape of the first output as it follows from the inputs, whatever is declared."""
        rule = shapes.RULES.get(node.op_type)
        try:
            return None if rule is None else rule(self, node)
        except _UNFIT:
            return None

    def _computed(self, node: ir.Node) -> Symbolic | None:
        rule = values.RULES.get(node.op_type)
        if rule is None or any(value is None for value in node.inputs[:2]):
            return None
        try:
            return rule(self, node)
        except _UNFIT:
            return None

    def value(self, value: ir.Value | None) -> Symbolic | None:
        """The elements of an integer tensor as far as they are known; None if nothing is."""
        if value is None:
            return None
        if value in self.values:
            return self.values[value]
        data = tensors.small_constant(value, SMALL)
        return data.astype(object) if data is not None and data.dtype.kind in "iub" else None

    def ints(self, node: ir.Node, index: int) -> list[int] | None:
        """The elements of an integer input when all are known numbers."""
        value = self.value(node.inputs[index]) if index < len(node.inputs) else None
        if value is None or not all(isinstance(dim, int) for dim in value.flat):
            return None
        return [int(dim) for dim in value.flat]
