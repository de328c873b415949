"""How much worse each format makes a tensor, found by letting its pass store a sample of it.

The pass itself works on a model of one node, so that whatever its options and solver are, it is their error that is
measured. Columns of a weight never influence each other, and some dozens of them tell about all.

The error counted is what reaches the output of the product, ``tr(Eᵀ XᵀX E)`` for E = W - Ŵ and the inputs X that were
measured, or ``sum E²`` where none were.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.base import Pass
from bct_onnx.planning.stored import Matrix, Tensor, with_options
from bct_onnx.runtime.session import run, session
from bct_onnx.runtime.statistics import KEY, ChannelStatistics

SAMPLED = 192
"""Columns of a weight, or rows of a table, that tell about all of them."""


@dataclasses.dataclass(frozen=True)
class Format:
    """Bits and block of a tensor."""

    bits: int
    block: int | tuple[int, int]

    @property
    def options(self) -> dict[str, object]:
        """For a pass."""
        return {"bits": self.bits, "block": self.block}

    def __str__(self) -> str:
        block = "x".join(map(str, self.block)) if isinstance(self.block, tuple) else self.block
        return f"{self.bits}/{block}"


def sample(tensor: Tensor, count: int = SAMPLED) -> npt.NDArray[np.intp]:
    """Columns [n] of a weight [K, N] spread over all of it, in whole blocks."""
    width = tensor.block[1] if isinstance(tensor.block, tuple) else 1
    groups = -(-tensor.shape[1] // width)
    chosen = np.linspace(0, groups - 1, min(groups, max(1, count // width))).astype(np.intp)
    columns = (chosen[:, None] * width + np.arange(width)).ravel()
    return columns[columns < tensor.shape[1]]


def restored(tensor: Tensor, columns: npt.NDArray[np.intp], options: Mapping[str, object], opset: int) -> Matrix:
    """What is left of some columns of a weight once its pass has stored them, [K, n] float32."""
    matrix = np.ascontiguousarray(tensor.matrix()[:, columns], dtype=np.float32)
    one = with_options(tensor.by, {"minimum": 1, "formats": (), "keep": (), **options})
    if tensor.is_table:
        return _looked_up(one, matrix, tensor.statistics if tensor.is_tied else None, opset)
    return _multiplied(one, matrix, tensor.statistics, opset)


def error(tensor: Tensor, columns: npt.NDArray[np.intp], left: Matrix) -> npt.NDArray[np.float64]:
    """The error of each of some columns [n], whose restored values are ``left`` [K, n]."""
    lost = np.asarray(tensor.matrix()[:, columns], dtype=np.float32) - left
    known = tensor.statistics
    if known is None or len(known.sum_squares) != len(lost):
        behind = lost
    elif known.products is not None:
        behind = known.products @ lost
    else:
        behind = known.sum_squares[:, None] * lost
    each: npt.NDArray[np.float64] = np.einsum("kn,kn->n", lost, behind, dtype=np.float64)
    return each


def _multiplied(one: Pass, matrix: Matrix, statistics: ChannelStatistics | None, opset: int) -> Matrix:
    """Run ``x @ w`` for x = 1 after the pass has stored w."""
    x, w = _input("x", ir.DataType.FLOAT, [None, len(matrix)]), _weight(matrix)
    if statistics is not None:
        x.meta[KEY] = statistics
    product = ir.node("MatMul", [x, w])
    model = _model([x], w, [product], product.outputs[0], opset)
    one(model)
    return np.asarray(run(session(model), {"x": np.eye(len(matrix), dtype=np.float32)})[0])


def _looked_up(one: Pass, matrix: Matrix, statistics: ChannelStatistics | None, opset: int) -> Matrix:
    """Look up every row of a table [n, K] after the pass has stored it; a tied one is multiplied by as well."""
    ids, table = _input("ids", ir.DataType.INT64, [None]), _weight(np.ascontiguousarray(matrix.T))
    lookup = ir.node("Gather", [table, ids], {"axis": 0})
    nodes = [lookup]
    if statistics is not None:
        lookup.outputs[0].meta[KEY] = statistics
        turned = ir.node("Transpose", [table], {"perm": [1, 0]})
        nodes += [turned, ir.node("MatMul", [lookup.outputs[0], turned.outputs[0]])]
    model = _model([ids], table, nodes, lookup.outputs[0], opset)
    if statistics is not None:
        model.graph.outputs.append(_named(nodes[-1].outputs[0], "product", [None, matrix.shape[1]]))
    one(model)
    return np.asarray(run(session(model), {"ids": np.arange(matrix.shape[1])})[0]).T


def _model(inputs: list[ir.Value], weight: ir.Value, nodes: list[ir.Node], output: ir.Value, opset: int) -> ir.Model:
    _named(output, "y", [None, None])
    graph = ir.Graph(inputs, [output], nodes=nodes, initializers=[weight], opset_imports={"": opset}, name="one tensor")
    return ir.Model(graph, ir_version=10)


def _input(name: str, dtype: ir.DataType, shape: list[Any]) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))


def _weight(matrix: Matrix) -> ir.Value:
    made = ir.tensor(matrix, name="w")
    return ir.Value(name="w", shape=ir.Shape(matrix.shape), type=ir.TensorType(ir.DataType.FLOAT), const_value=made)


def _named(value: ir.Value, name: str, shape: list[Any]) -> ir.Value:
    value.name, value.type, value.shape = name, ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)
    return value
