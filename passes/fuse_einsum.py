"""``Einsum`` of two operands becomes ``MatMul``."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site
from bct_onnx.graph import dims, equation, views
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.equation import Equation
from bct_onnx.graph.transposes import TypedEdit


@dataclasses.dataclass(frozen=True)
class FuseEinsum(Pass):
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

    def apply(self, model: ir.Model) -> Applied:
        """Read all equations, then lift those whose constants need not be stored twice."""
        nodes = [node for node in model.graph.all_nodes() if node.op_type == "Einsum" and not node.domain]
        found = {node: _read(node) for node in nodes}
        planned = {node: _matrix(one, view) for node, (one, view) in found.items() if _is_product(one) and view}
        lifting = _Lifting(model)
        results: list[Site | Declined] = []
        for node, (one, view) in found.items():
            matrix = planned.get(node)
            reason = "" if matrix is None or matrix.is_transposed else views.twice(matrix, planned)
            if isinstance(one, str) or reason:
                nbytes = 0 if view is None else _nbytes(view)
                results.append(Declined(node.name or "Einsum", reason or str(one), nbytes))
            else:
                results.append(lifting.lift(node, one, matrix))
        lifting.views.finish()
        return Applied.of(model, results)


def _read(node: ir.Node) -> tuple[Equation | str, views.View | None]:
    """The equation with the constant operand on the right, and that constant; or why the node stays as it is."""
    constants = [views.of(value) for value in node.inputs]
    constant = next((view for view in reversed(constants) if view is not None), None)
    found = equation.parse(node.attributes["equation"].as_string(), [dims.of(value) for value in node.inputs])
    if isinstance(found, str):
        return found, constant
    if constant is None:
        return _of_computed(found), None
    if all(view is not None for view in constants):
        return "both operands are constants", constant
    return (found if constants[1] is not None else found.turned()), constant


def _of_computed(found: Equation) -> Equation | str:
    """The operand whose rows come first in the result on the left."""
    if (len(found.rows), len(found.inner), len(found.columns)) != (1, 1, 1):
        return "not one row, one column and one summed axis of two computed operands"
    later = found.result.index(found.rows) > found.result.index(found.columns)
    return found.turned() if later else found


def _is_product(one: Equation | str) -> bool:
    return isinstance(one, Equation)


def _matrix(one: Equation | str, view: views.View) -> views.View:
    """A constant as [*batch, inner, columns]."""
    assert isinstance(one, Equation)
    order = one.batch + one.inner + one.columns
    turned = view.transpose(*(one.right.index(letter) for letter in order))
    outer, count = turned.shape[: len(one.batch)], len(one.batch) + len(one.inner)
    inner, columns = math.prod(turned.shape[len(outer) : count]), math.prod(turned.shape[count:])
    return turned.reshape(*outer, inner, columns)


def _nbytes(view: views.View) -> int:
    assert view.source.const_value is not None
    return view.source.const_value.nbytes


class _Lifting:
    """One run over a model: its shapes and the constants made so far."""

    def __init__(self, model: ir.Model) -> None:
        self._tracker = dims.Tracker()
        self.views = views.Views(model.graph)

    def lift(self, node: ir.Node, one: Equation, matrix: views.View | None) -> Site:
        """Build the product in place of ``node``."""
        left, right = (node.inputs[index] for index in ((1, 0) if one.swapped else (0, 1)))
        assert left is not None and right is not None
        added = _bias(node, one) if matrix is not None else None
        last = node if added is None else added[0]
        edit = TypedEdit(last, self._tracker)
        leading = len(one.batch + one.rows)
        x = _ordered(edit, left, one.left, one.batch + one.rows + one.inner)
        if matrix is None:
            w = _ordered(edit, right, one.right, one.batch + one.inner + one.columns)
        else:
            w = self._weight(edit, one, matrix)
            if len(one.inner) > 1:
                x = edit.op("Reshape", x, edit.shape("inner", [*[0] * leading, matrix.shape[-2]]), name="inner")
        alone = bool(one.batch and not one.rows)
        if alone:
            x = edit.op("Unsqueeze", x, edit.shape("row", [-2]), name="row")
        y = edit.op("MatMul", x, w)
        product = edit.made[-1]
        if alone:
            y = edit.op("Squeeze", y, edit.shape("row", [-2]), name="rows")
        if added is not None:
            y = edit.op("Add", y, self.views.constant(added[1]))
        if not one.columns:
            y = edit.op("Squeeze", y, edit.shape("column", [-1]), name="column")
        elif len(one.columns) > 1:
            y = edit.op("Reshape", y, edit.shape("columns", [*[0] * leading, *_sizes(right, one)]), name="columns")
        y = _ordered(edit, y, one.batch + one.rows + one.columns, one.result)
        edit.replace(last.outputs[0], y, also=[] if added is None else [node])
        return Site(product.name or "", ("Einsum",) if added is None else ("Einsum", "Add"), one.text)

    def _weight(self, edit: Edit, one: Equation, matrix: views.View) -> ir.Value:
        """The constant as the right operand; axes of length 1 stand for the rows where there is a batch."""
        if matrix.is_transposed:
            return edit.op("Transpose", matrix.source, perm=[1, 0], name="weight")
        if one.batch and len(one.rows) > 1:
            outer = matrix.shape[:-2]
            matrix = matrix.reshape(*outer, *[1] * (len(one.rows) - 1), *matrix.shape[-2:])
        return self.views.constant(matrix)


def _ordered(edit: TypedEdit, value: ir.Value, letters: str, wanted: str) -> ir.Value:
    """A value with axes ``letters`` in the order ``wanted``."""
    return edit.transposed(value, [letters.index(letter) for letter in wanted])


def _sizes(right: ir.Value, one: Equation) -> list[int]:
    """The lengths of the columns, which a constant has."""
    shape = dims.of(right)
    assert shape is not None
    sizes = [shape[one.right.index(letter)] for letter in one.columns]
    return [size for size in sizes if isinstance(size, int)]


def _bias(node: ir.Node, one: Equation) -> tuple[ir.Node, views.View] | None:
    """The Add of one constant per column that is all that follows, and that constant as a vector."""
    uses = list(node.outputs[0].uses())
    plain = len(one.columns) > 1 and one.result == one.batch + one.rows + one.columns
    if not plain or len(uses) != 1 or node.outputs[0].is_graph_output():
        return None
    (after, place) = uses[0]
    if after.op_type != "Add" or after.domain or after.graph is not node.graph:
        return None
    bias = views.of(after.inputs[1 - place])
    constant = node.inputs[0 if one.swapped else 1]
    columns = tuple(_sizes(constant, one)) if constant is not None else ()
    if bias is None or bias.steps or bias.shape[-len(columns) :] != columns or bias.size != math.prod(columns):
        return None
    if len(bias.shape) > len(one.result) or len(list(views.readers(bias.source))) > 1:
        return None
    return after, bias.reshape(bias.size)
