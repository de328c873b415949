"""The constant of a product before it is a weight [K, N] on the right: on the left, with axes of 1, or seen through
other operators."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import onnx_ir as ir

from bct_onnx.base import NodeRewriter, Outcome
from bct_onnx.graph import dims, transposes, views
from bct_onnx.graph.known import constant_nbytes
from bct_onnx.graph.neighbours import operand


@dataclasses.dataclass(frozen=True)
class ConstantOperand:
    """The constant that a MatMul or Gemm multiplies, wherever and however it stands.

    Attributes:
        stored: As the product reads it now.
        matrix: As it is to stand on the right: [K, N], or [experts, K, N].
        left: Whether it is on the left.
        leading: How many axes of 1 are left out.
        turned: Whether the other operand of a Gemm is transposed first.
    """

    stored: views.View
    matrix: views.View
    left: bool = False
    leading: int = 0
    turned: bool = False

    @classmethod
    def of(cls, node: ir.Node) -> ConstantOperand | None:
        """The constant of a MatMul or Gemm with one that is a matrix or several."""
        if node.domain or node.op_type not in ("MatMul", "Gemm"):
            return None
        left, right = views.of(node.inputs[0]), views.of(node.inputs[1])
        if (left is None) == (right is None):
            return None
        if node.op_type == "Gemm":
            turned = bool(node.attributes.get_int("transA", 0))
            if right is not None:
                return cls(right, right, turned=turned)
            if left is None or not _is_exchangeable(node):
                return None
            return cls(left, left, left=True)
        stored = left or right
        assert stored is not None
        if len(stored.shape) < 2:
            return None
        leading = next((i for i, size in enumerate(stored.shape[:-2]) if size != 1), len(stored.shape) - 2)
        matrix = stored.reshape(*stored.shape[leading:])
        if left is not None:
            rank = len(matrix.shape)
            matrix = matrix.transpose(*range(rank - 2), rank - 1, rank - 2)
        return cls(stored, matrix, left is not None, leading)

    @property
    def is_plain(self) -> bool:
        """Whether all is as it should be: a constant on the right, or its transpose."""
        plain = not self.stored.steps or self.stored.is_transposed
        return plain and not (self.left or self.leading or self.turned)

    @property
    def nbytes(self) -> int:
        """Bytes of the constant."""
        return constant_nbytes(self.stored.source)


class LaidOut(NodeRewriter):
    """One run over a model that stores constants as products want them: its shapes, and what was made so far."""

    def __init__(self, model: ir.Model) -> None:
        self._model, self._tracker, self._views = model, dims.Tracker(), views.Views(model.graph)
        self._transposes: set[ir.Node] = set()

    def finish(self) -> Iterable[Outcome]:
        """Drop the constants that are stored anew, and transposes that undo each other."""
        self._views.finish()
        for graph in (self._model.graph, *self._model.graph.subgraphs()):
            transposes.cancel(graph, self._transposes)
        return ()


def _is_exchangeable(gemm: ir.Node) -> bool:
    """Whether the operands of a Gemm can change places: its bias is a constant, if there is one."""
    bias = operand(gemm, 2)
    return bias is None or (bias.is_initializer() and bias.const_value is not None)
