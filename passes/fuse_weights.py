"""The constant of a product becomes a matrix on its right, wherever and however it stands."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from bct_onnx.base import Declined, NodePass, NodeRewriter, Outcome, Site
from bct_onnx.forms.operands import ConstantOperand, LaidOut
from bct_onnx.graph import dims, views
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.names import answers
from bct_onnx.graph.neighbours import attributes_of, of_types
from bct_onnx.graph.transposes import TypedEdit


@dataclasses.dataclass(frozen=True)
class FuseWeights(NodePass):
    """Lift products whose constant is on the left, has leading axes of 1 or is seen through other operators.

    Why:
        What compresses weights looks for ``MatMul(x, W[K, N])``. Exporters also write ``W @ x``, weights of [1, K, N],
        weights that a ``Reshape``, ``Squeeze``, ``Transpose``, ``Slice`` or ``Split`` gives at run time, and ``Gemm``
        with ``transA``.

    Before/after:
        ``MatMul(W[N, K], x[..., K, T])`` becomes ``Transpose(MatMul(Transpose(x), W'))`` with ``W'`` [K, N]; transposes
        that meet undo each other, also across operators that look at each element alone. ``MatMul(x, W[1, K, N])``
        loses the 1. ``MatMul(x, Reshape(W, [K, N]))`` gets a constant [K, N]. ``Gemm<transA>(x, W)`` becomes
        ``Gemm(Transpose(x), W)``.

    Declines:
        Constants of fewer than ``minimum`` values, or that are used elsewhere too and would be stored twice. Values
        whose rank has to be known and is not.

    Options:
        minimum: Constants with fewer values stay as they are.

    Promise:
        Exact up to float rounding.

    >>> model = ir.from_onnx_text('''<ir_version: 10, opset_import: ["": 23]> g (float[b,2,t] x) => (float[b,4,t] y)
    ...     <float[4,2] w = {1, 2, 3, 4, 5, 6, 7, 8}> { y = MatMul (w, x) }''')
    >>> [node.op_type for node in FuseWeights(minimum=1)(model).model.graph]
    ['Transpose', 'Transpose', 'MatMul', 'Transpose']
    """

    name: ClassVar[str] = "fuse-weights"

    minimum: int = 1024
    operators: ClassVar[tuple[str, ...]] = ("MatMul", "Gemm")

    def rewriter(self, model: ir.Model, nodes: Sequence[ir.Node]) -> NodeRewriter:
        """Look at all products first: a constant must not have to be stored twice."""
        return _Lifting(model, nodes, self.minimum)


class _Lifting(LaidOut):
    """One run over a model: its constants, and what becomes of them."""

    def __init__(self, model: ir.Model, nodes: Sequence[ir.Node], minimum: int) -> None:
        super().__init__(model)
        self._minimum = minimum
        self._weights = answers(ConstantOperand.of, nodes)
        self._planned = {node: weight.matrix for node, weight in self._weights.items()}

    def __call__(self, node: ir.Node) -> Outcome:
        weight = self._weights.get(node)
        if weight is None or weight.is_plain:
            return None
        if reason := self._refuse(node, weight):
            return Declined(node.name or node.op_type, reason, weight.nbytes)
        return self._lift(node, weight)

    def _refuse(self, node: ir.Node, weight: ConstantOperand) -> str:
        if weight.matrix.size < self._minimum:
            return f"fewer than {self._minimum} values"
        if (weight.left or weight.leading) and dims.of(node.inputs[int(weight.left)]) is None:
            return "the rank of what it is multiplied by is not known"
        is_stored = not weight.matrix.steps or weight.matrix.is_transposed
        if is_stored:
            return ""
        return views.twice(weight.matrix, self._planned)

    def _lift(self, node: ir.Node, weight: ConstantOperand) -> Site:
        """Build the product in place of ``node``."""
        edit = TypedEdit(node, self._tracker)
        build = self._gemm if node.op_type == "Gemm" else self._product
        y = build(edit, node, weight)
        self._transposes.update(of_types(edit.made, "Transpose"))
        product = of_types(edit.made, node.op_type)[0]
        last = edit.anchor
        edit.replace(last.outputs[0], y, also=[] if last is node else [node])
        return Site(product.name or "", (node.op_type,), self._note(weight))

    def _note(self, weight: ConstantOperand) -> str:
        if weight.left:
            return "on the left"
        if weight.turned:
            return "transposed input"
        return f"was {list(weight.stored.shape)} of {list(weight.stored.source.shape or ())}"

    def _constant(self, edit: Edit, matrix: views.View) -> ir.Value:
        if matrix.is_transposed:
            return edit.op("Transpose", matrix.source, perm=[1, 0], name="weight")
        return self._views.constant(matrix)

    def _product(self, edit: TypedEdit, node: ir.Node, weight: ConstantOperand) -> ir.Value:
        x = node.inputs[int(weight.left)]
        rank = len(dims.of(x) or ())
        wide = max(rank, len(weight.matrix.shape))
        assert x is not None
        matrix = self._constant(edit, weight.matrix)
        if not weight.left or rank == 1:
            y = edit.op("MatMul", x, matrix)
        else:
            y = edit.op("MatMul", edit.transposed(x, _swapped(rank)), matrix)
            y = edit.op("Transpose", y, perm=_swapped(wide), name="back")
        missing = weight.leading + len(weight.matrix.shape) - wide
        if weight.leading and missing > 0:
            y = edit.op("Unsqueeze", y, edit.shape("leading", list(range(missing))), name="leading")
        return y

    def _gemm(self, edit: TypedEdit, node: ir.Node, weight: ConstantOperand) -> ir.Value:
        """``alpha * A @ B + beta * C``; with the operands exchanged, its transpose."""
        left, right, *bias = node.inputs
        assert left is not None and right is not None
        options = attributes_of(node)
        if not weight.left:
            matrix = self._constant(edit, weight.matrix) if weight.matrix.steps else right
            if weight.turned:
                left = edit.transposed(left, [1, 0])
            return edit.op("Gemm", left, matrix, *bias, **(options | {"transA": 0}))
        if not options.get("transB"):
            right = edit.transposed(right, [1, 0])
        matrix = self._constant(edit, weight.matrix)
        if bias and bias[0] is not None and bias[0].const_value is not None:
            added = np.atleast_2d(bias[0].const_value.numpy()).T
            bias = [edit.constant(bias[0].name or "bias", np.ascontiguousarray(added))]
        turned = options | {"transA": 0, "transB": int(not options.get("transA"))}
        return edit.op("Transpose", edit.op("Gemm", right, matrix, *bias, **turned), perm=[1, 0], name="back")


def _swapped(rank: int) -> list[int]:
    return [*range(rank - 2), rank - 1, rank - 2]
