"""An ``Einsum`` of two operands as a matrix product, its constant operand as a matrix on the right."""

from __future__ import annotations

import math

import onnx_ir as ir

from bct_onnx.graph import dims, equation, views
from bct_onnx.graph.equation import Equation
from bct_onnx.graph.known import sizes_of


def read(node: ir.Node) -> tuple[Equation | str, views.View | None]:
    """The equation with the constant operand on the right, and that constant; or why the node stays as it is."""
    if None in node.inputs:
        return "an operand is missing", None
    constants = list(map(views.of, node.inputs))
    constant = next((view for view in reversed(constants) if view is not None), None)
    contraction = equation.parse(node.attributes["equation"].as_string(), list(map(dims.of, node.inputs)))
    if isinstance(contraction, str):
        return contraction, constant
    if constant is None:
        return _of_computed(contraction), None
    if None not in constants:
        return "both operands are constants", constant
    return (contraction if constants[1] is not None else contraction.turned()), constant


def _of_computed(contraction: Equation) -> Equation | str:
    """The operand whose rows come first in the result on the left."""
    if (len(contraction.rows), len(contraction.inner), len(contraction.columns)) != (1, 1, 1):
        return "not one row, one column and one summed axis of two computed operands"
    later = contraction.result.index(contraction.rows) > contraction.result.index(contraction.columns)
    if later:
        return contraction.turned()
    return contraction


def matrix(contraction: Equation, view: views.View) -> views.View:
    """A constant as [*batch, inner, columns]."""
    order = contraction.batch + contraction.inner + contraction.columns
    turned = view.transpose(*map(contraction.right.index, order))
    outer, count = turned.shape[: len(contraction.batch)], len(contraction.batch) + len(contraction.inner)
    inner, columns = math.prod(turned.shape[len(outer) : count]), math.prod(turned.shape[count:])
    return turned.reshape(*outer, inner, columns)


def column_sizes(right: ir.Value, contraction: Equation) -> list[int]:
    """The lengths of the columns, which a constant has."""
    shape = dims.of(right)
    assert shape is not None
    sizes = [shape[contraction.right.index(letter)] for letter in contraction.columns]
    return sizes_of(sizes)


def bias(node: ir.Node, contraction: Equation) -> tuple[ir.Node, views.View] | None:
    """The Add of one constant per column that is all that follows, and that constant as a vector."""
    uses = list(node.outputs[0].uses())
    plain = contraction.batch + contraction.rows + contraction.columns
    if (
        len(contraction.columns) < 2
        or contraction.result != plain
        or len(uses) != 1
        or node.outputs[0].is_graph_output()
    ):
        return None
    (after, place) = uses[0]
    if after.op_type != "Add" or after.domain or after.graph is not node.graph:
        return None
    vector = views.of(after.inputs[1 - place])
    constant = node.inputs[0 if contraction.swapped else 1]
    columns = tuple(column_sizes(constant, contraction)) if constant is not None else ()
    if vector is None or vector.steps or vector.shape[-len(columns) :] != columns or vector.size != math.prod(columns):
        return None
    if len(vector.shape) > len(contraction.result) or len(list(views.readers(vector.source))) > 1:
        return None
    return after, vector.reshape(vector.size)
