"""Stacked weights of experts become a matrix for each, or rows of a table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from bct_onnx.base import Declined, NodePass, NodeRewriter, Outcome, Site
from bct_onnx.graph import dims, views
from bct_onnx.graph.known import are_ones
from bct_onnx.graph.names import answers
from bct_onnx.graph.neighbours import operand
from bct_onnx.graph.operators import identifier
from bct_onnx.graph.transposes import TypedEdit

_MIXTURE = "com.microsoft::MoE"
_WEIGHTS = (2, 4, 6)
"""Inputs of that operator that are stacked weights."""


@dataclasses.dataclass(frozen=True)
class SplitExperts(NodePass):
    """Multiply by each of some stacked weights on its own; look stacked weights up as rows of one table.

    Why:
        Mixtures of experts keep the weights of all experts in one tensor [experts, K, N]. Stored as codes with blocks
        in two dimensions it would have to be decoded in every run; a matrix for each expert gets the int8 kernels, GPTQ
        and everything else that other weights get, and what a ``Gather`` chooses is decoded alone, as rows of an
        embedding table are.

    Before/after:
        ``MatMul(x[E, T, K], W[E, K, N])`` becomes ``Concat(MatMul(x_e, W_e) ...)`` with ``x_e`` from one ``Split``;
        where ``x`` is the same for all experts there is none. ``Gather(W[E, K, N], i)`` becomes ``Gather(W', i * K +
        [0, 1, ... K-1])`` with ``W'`` [E*K, N]. ``com.microsoft.MoE(x, router, W[E, N, K])`` gets
        ``Reshape(Gather(W'[E*N, K], Range(0, E*N)))``, which runtimes evaluate once, when they load the model.

    Declines:
        More than ``limit`` experts in a product, experts of fewer than ``minimum`` values, stacks in two dimensions,
        inputs not known to have as many parts as there are experts, stacks that are used in another way too.

    Options:
        limit: Most experts of one product.
        minimum: Experts with fewer values stay stacked.

    Promise:
        Exact up to float rounding.

    >>> model = ir.from_onnx_text('''<ir_version: 10, opset_import: ["": 23]> g (float[1,t,2] x) => (float[2,t,2] y)
    ...     <float[2,2,2] w = {1, 2, 3, 4, 5, 6, 7, 8}> { y = MatMul (x, w) }''')
    >>> [node.op_type for node in SplitExperts(minimum=1)(model).model.graph]
    ['MatMul', 'MatMul', 'Concat']
    """

    name: ClassVar[str] = "split-experts"
    operators: ClassVar[tuple[str, ...]] = ("MatMul", "Gather", _MIXTURE)

    limit: int = 128
    minimum: int = 1024

    def rewriter(self, model: ir.Model, nodes: Sequence[ir.Node]) -> NodeRewriter:
        """Look at all stacks first: one must not have to be stored twice."""
        return _Lifting(self, model, nodes)


class _Lifting(NodeRewriter):
    """One run over a model: its shapes and stacks, and the constants made so far."""

    def __init__(self, options: SplitExperts, model: ir.Model, nodes: Sequence[ir.Node]) -> None:
        self._options = options
        self._tracker = dims.Tracker()
        self._views = views.Views(model.graph)
        self._mixtures = [node for node in nodes if identifier(node) == _MIXTURE]
        self._stacks = answers(_stack, nodes)

    def __call__(self, node: ir.Node) -> Outcome:
        view = self._stacks.get(node)
        if view is None:
            return None
        if reason := self._refuse(node, view):
            constant = view.source.const_value
            return Declined(node.name or node.op_type, reason, constant.nbytes if constant else 0)
        if node.op_type == "Gather":
            return self._gather(node, view)
        return self._product(node, view)

    def finish(self) -> Iterable[Outcome]:
        """Turn to operators that multiply by stacks themselves, and drop the constants that are stored anew."""
        for node in self._mixtures:
            for index in _WEIGHTS:
                if self._is_large(node, index):
                    yield self._rows(node, index)
        self._views.finish()

    def _is_large(self, node: ir.Node, index: int) -> bool:
        view = views.of(operand(node, index))
        users = 0 if view is None else len(list(views.readers(view.source)))
        return view is not None and len(view.shape) == 3 and view.size >= self._options.minimum and users == 1

    def _refuse(self, node: ir.Node, view: views.View) -> str:
        """Why a stack stays as it is; empty if it is split."""
        minimum, limit = self._options.minimum, self._options.limit
        if math.prod(view.shape[1:] if node.op_type == "Gather" else view.shape[-2:]) < minimum:
            return f"experts of fewer than {minimum} values"
        if node.op_type == "Gather":
            known = dims.of(node.inputs[1]) is not None
            if known:
                return views.twice(view, self._stacks)
            return "the rank of its indices is not known"
        axis = _axis(view)
        if axis is None:
            return "stacked in more than one dimension"
        count = view.shape[axis]
        if count > limit:
            return f"{count} experts, more than the limit of {limit}"
        shape = dims.of(node.inputs[0])
        if shape is None or len(shape) < 2 or (len(shape) >= -axis and shape[axis] not in (1, count)):
            return f"its input is not known to have one or {count} parts"
        return views.twice(view, self._stacks)

    def _product(self, node: ir.Node, view: views.View) -> Site:
        """One product for each expert, and all results stacked."""
        edit = TypedEdit(node, self._tracker)
        axis, x = _axis(view), node.inputs[0]
        assert axis is not None and x is not None
        count, shape = view.shape[axis], dims.of(x) or ()
        parts = [x] * count
        if len(shape) >= -axis and shape[axis] != 1:
            edit.op("Split", x, outputs=count, axis=axis + len(shape), num_outputs=count, name="inputs")
            parts = list(edit.made[-1].outputs)
        products: list[ir.Value] = []
        for index, part in enumerate(parts):
            matrix = view.part(axis + len(view.shape), index, index + 1).reshape(*view.shape[-2:])
            weight = self._views.constant(matrix, f"{view.source.name}.{index}")
            y = edit.op("MatMul", part, weight, name=f"expert_{index}")
            if len(shape) < -axis:
                y = edit.op("Unsqueeze", y, edit.shape("expert", list(range(-axis - len(shape)))), name="stacked")
            products.append(y)
        y = edit.op("Concat", *products, axis=max(len(shape), -axis) + axis, name="experts")
        edit.replace(node.outputs[0], y)
        return Site(y.name or "", ("MatMul",), f"{count} experts")

    def _gather(self, node: ir.Node, view: views.View) -> Site:
        """The rows of the chosen experts."""
        edit = TypedEdit(node, self._tracker)
        indices = node.inputs[1]
        assert indices is not None and indices.dtype is not None
        outer, rows = len(dims.of(indices) or ()), math.prod(view.shape[1:-1])
        kind = indices.dtype.numpy()
        each = edit.op("Unsqueeze", indices, edit.shape("rows", [-1]), name="expert")
        first = edit.op("Mul", each, edit.constant("rows_each", np.array(rows, kind)), name="first_row")
        places = edit.op("Add", first, edit.constant("within", np.arange(rows, dtype=kind)), name="places")
        for value in (each, first, places):
            value.dtype = indices.dtype
        table = self._views.constant(view.reshape(view.shape[0] * rows, view.shape[-1]))
        y = edit.op("Gather", table, places, axis=0)
        if len(view.shape) > 3:
            y = edit.op("Reshape", y, edit.shape("expert_shape", [*[0] * outer, *view.shape[1:]]), name="experts")
        edit.replace(node.outputs[0], y)
        return Site(y.name or "", ("Gather",), f"rows of {rows} for each of {view.shape[0]} experts")

    def _rows(self, node: ir.Node, index: int) -> Site:
        """An input of an operator that multiplies by stacked weights itself, as all rows of a table."""
        edit = TypedEdit(node, self._tracker)
        view = views.of(node.inputs[index])
        assert view is not None
        count = math.prod(view.shape[:-1])
        table = self._views.constant(view.reshape(count, view.shape[-1]))
        first, rows = edit.scalar("first", 0, ir.DataType.INT64), edit.scalar("rows", count, ir.DataType.INT64)
        places = edit.op("Range", first, rows, edit.scalar("step", 1, ir.DataType.INT64), name="places")
        places.type, places.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([count])
        y = edit.op("Gather", table, places, axis=0)
        y = edit.op("Reshape", y, edit.shape("experts", view.shape), name="experts")
        for part in edit.made[1:]:
            part.outputs[0].type = ir.TensorType(table.dtype or ir.DataType.FLOAT)
        node.replace_input_with(index, y)
        return Site(y.name or "", (node.op_type,), f"{view.shape[0]} experts as {count} rows")


def _stack(node: ir.Node) -> views.View | None:
    """The constant of three or more dimensions that a product has on its right, or that is looked up."""
    if node.domain or node.op_type not in ("MatMul", "Gather"):
        return None
    if node.op_type == "Gather":
        view = views.of(node.inputs[0]) if node.attributes.get_int("axis", 0) == 0 else None
        if view is not None and len(view.shape) > 2 and views.of(node.outputs[0]) is None:
            return view
        return None
    view = views.of(node.inputs[1])
    stacked = view is not None and not are_ones(view.shape[:-2])
    if stacked and views.of(node.inputs[0]) is None:
        return view
    return None


def _axis(view: views.View) -> int | None:
    """The axis of the experts, counted from the last; None where there are two."""
    axes = [axis - len(view.shape) for axis, size in enumerate(view.shape[:-2]) if size != 1]
    if len(axes) == 1:
        return axes[0]
    return None
