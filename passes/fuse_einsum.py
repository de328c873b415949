"""``Einsum`` of two operands becomes ``MatMul``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Declined, NodePass, NodeRewriter, Outcome, Site
from bct_onnx.forms import einsum
from bct_onnx.graph import dims, views
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.equation import Equation
from bct_onnx.graph.transposes import TypedEdit


@dataclasses.dataclass(frozen=True)
class FuseEinsum(NodePass):
    """Lift every ``Einsum`` that is a matrix product to ``MatMul``, its constant operand as a matrix on the right.

    Why:
        Keras keeps the weights of its dense and attention layers in ``Einsum``, and so do many layers that are written
        by hand. No kernel for few-bit weights takes that operator, and no later pass would know its hundred spellings.

    Before/after:
        ``Einsum<abcd,cde->abe>(x, W)`` becomes ``MatMul(Reshape(x, [0, 0, -1]), W')`` with the constant ``W'`` of shape
        [c*d, e]; one with several columns is split by a ``Reshape`` behind, and behind a bias that follows.
        ``Einsum<aecd,abcd->acbe>(k, q)`` becomes ``MatMul(Transpose(q), Transpose(k))``: what fuse-attention looks for.
        An axis of the batch that a constant has as well gives ``MatMul(x[batch, rows, inner], W'[batch, inner,
        columns])``.

    Declines:
        Equations of one operand or of more than two, of which an operand is not known to have the rank, or that are no
        product of matrices: without a sum, with a diagonal, or with a sum over an axis of one operand alone. Several
        rows, columns or summed axes of two computed operands. A constant that is used elsewhere too.

    Options:
        None.

    Promise:
        Exact up to float rounding.

    >>> model = ir.from_onnx_text('''<ir_version: 10, opset_import: ["": 23]>
    ...     g (float[b,s,2] x, float[b,t,2] y) => (float[b,s,t] z) { z = Einsum <equation = "bsk,btk->bst"> (x, y) }''')
    >>> [node.op_type for node in FuseEinsum()(model).model.graph]
    ['Transpose', 'MatMul']
    """

    name: ClassVar[str] = "fuse-einsum"
    operators: ClassVar[tuple[str, ...]] = ("Einsum",)

    def rewriter(self, model: ir.Model, nodes: Sequence[ir.Node]) -> NodeRewriter:
        """Read all equations first: a constant must not have to be stored twice."""
        return _Lifting(model, nodes)


class _Lifting(NodeRewriter):
    """One run over a model: what its equations say, its shapes and the constants made so far."""

    def __init__(self, model: ir.Model, nodes: Sequence[ir.Node]) -> None:
        self._tracker = dims.Tracker()
        self._views = views.Views(model.graph)
        self._equations = {node: einsum.read(node) for node in nodes}
        self._matrices: dict[ir.Node, views.View] = {}
        for node, (contraction, view) in self._equations.items():
            if isinstance(contraction, Equation) and view is not None:
                self._matrices[node] = einsum.matrix(contraction, view)

    def __call__(self, node: ir.Node) -> Site | Declined:
        contraction, view = self._equations[node]
        matrix = self._matrices.get(node)
        reason = ""
        if isinstance(contraction, str):
            reason = contraction
        elif matrix is not None and not matrix.is_transposed:
            reason = views.twice(matrix, self._matrices)
        if reason or isinstance(contraction, str):
            return Declined(node.name or "Einsum", reason, 0 if view is None else _nbytes(view))
        return self._lift(node, contraction, matrix)

    def finish(self) -> Iterable[Outcome]:
        """Drop the constants that are stored anew."""
        self._views.finish()
        return ()

    def _lift(self, node: ir.Node, contraction: Equation, matrix: views.View | None) -> Site:
        """Build the product in place of ``node``."""
        batch, rows, inner, columns = contraction.batch, contraction.rows, contraction.inner, contraction.columns
        left, right = (node.inputs[index] for index in ((1, 0) if contraction.swapped else (0, 1)))
        assert left is not None and right is not None
        added = einsum.bias(node, contraction) if matrix is not None else None
        last = node if added is None else added[0]
        edit = TypedEdit(last, self._tracker)
        kept = [0] * len(batch + rows)
        x = _ordered(edit, left, contraction.left, batch + rows + inner)
        if matrix is None:
            w = _ordered(edit, right, contraction.right, batch + inner + columns)
        else:
            w = self._weight(edit, contraction, matrix)
            if len(inner) > 1:
                x = edit.op("Reshape", x, edit.shape("inner", [*kept, matrix.shape[-2]]), name="inner")
        if batch and not rows:
            x = edit.op("Unsqueeze", x, edit.shape("row", [-2]), name="row")
        y = edit.op("MatMul", x, w)
        product = edit.made[-1]
        if batch and not rows:
            y = edit.op("Squeeze", y, edit.shape("row", [-2]), name="rows")
        if added is not None:
            y = edit.op("Add", y, self._views.constant(added[1]))
        if not columns:
            y = edit.op("Squeeze", y, edit.shape("column", [-1]), name="column")
        elif len(columns) > 1:
            sizes = einsum.column_sizes(right, contraction)
            y = edit.op("Reshape", y, edit.shape("columns", [*kept, *sizes]), name="columns")
        y = _ordered(edit, y, batch + rows + columns, contraction.result)
        edit.replace(last.outputs[0], y, also=[] if added is None else [node])
        return Site(product.name or "", ("Einsum",) if added is None else ("Einsum", "Add"), contraction.text)

    def _weight(self, edit: Edit, contraction: Equation, matrix: views.View) -> ir.Value:
        """The constant as the right operand; axes of length 1 stand for the rows where there is a batch."""
        if matrix.is_transposed:
            return edit.op("Transpose", matrix.source, perm=[1, 0], name="weight")
        if contraction.batch and len(contraction.rows) > 1:
            outer = matrix.shape[:-2]
            matrix = matrix.reshape(*outer, *[1] * (len(contraction.rows) - 1), *matrix.shape[-2:])
        return self._views.constant(matrix)


def _ordered(edit: TypedEdit, value: ir.Value, letters: str, order: str) -> ir.Value:
    """A value with axes ``letters`` in the order ``wanted``."""
    return edit.transposed(value, list(map(letters.index, order)))


def _nbytes(view: views.View) -> int:
    assert view.source.const_value is not None
    return view.source.const_value.nbytes
