"""Multiply with several weights at once where they multiply the same codes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from bct_onnx.forms.linear import bias_of
from bct_onnx.forms.products import BIAS, COLUMN_SCALE, MATRIX, PRODUCT, X_SCALE, X_ZERO_POINT, ZERO_POINT, X
from bct_onnx.graph import tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.kernels import MICROSOFT
from bct_onnx.graph.known import dtypes_of, size_of
from bct_onnx.graph.neighbours import only_use, operand, operands_at, provided


@dataclasses.dataclass(frozen=True)
class MergeProducts(Pass):
    """Put the weights of products that read the same codes beside each other: one product, split behind it.

    Why:
        A runtime may be at its best with many columns, as ONNX Runtime 1.31 was on CPUs with VNNI. 1.32 is not: there
        the ``Split`` costs more than is won (7 % of a model at 8 x 128 with VNNI; with AVX2 16 % of three products of
        384 columns at 1,024 rows, 6 % of 768; 4 % are won at a single row). So no target for it on CPUs runs this pass.

    Before/after:
        ``Product(x, Q)``, ``Product(x, K)`` and ``Product(x, V)`` become ``Split(Product(x, [Q K V]))``; scales are per
        column, so formats of the weights do not matter, and biases go along. What follows each of them alike, a
        multiplication by the scale of the token and the addition of a bias, is done once.

    Declines:
        Products of the same codes that hold int8 and uint8 matrices; one with more columns than ``widest``.

    Options:
        widest: Most columns of a product that is merged; wide ones are fast alone, and splitting them costs more.

    Promise:
        Exact: every number is the same.
    """

    name: ClassVar[str] = "merge-products"
    stage: ClassVar[Stage] = Stage.LOWER

    widest: int = 1024

    def apply(self, model: ir.Model) -> Applied:
        """Look for products of the same codes in every graph."""
        outcomes: list[Site | Declined] = []
        for graph in (model.graph, *model.graph.subgraphs()):
            for group in _groups(graph):
                outcomes += self._merge(group)
            graph.sort()
        return Applied.of(model, outcomes)

    def _merge(self, group: list[ir.Node]) -> Iterator[Site | Declined]:
        kinds: dict[bool, list[ir.Node]] = {}
        for node in group:
            if _columns(node) > self.widest:
                yield Declined(node.name or "", f"its {_columns(node)} columns are fast alone")
            else:
                kinds.setdefault(operand(node, ZERO_POINT) is None, []).append(node)
        for products in kinds.values():
            if len(products) > 1:
                yield _together(products)
            elif len(kinds) > 1:
                yield Declined(products[0].name or "", "its matrix has another type than the others")


def _groups(graph: ir.Graph) -> list[list[ir.Node]]:
    """Products of the same codes, in graph order; those whose columns are not known are left out."""
    groups: dict[tuple[object, ...], list[ir.Node]] = {}
    for node in graph:
        if node.op_type == PRODUCT and node.domain == MICROSOFT and _columns(node):
            key = (node.inputs[X], _number(node.inputs[X_SCALE]), _number(node.inputs[X_ZERO_POINT]))
            groups.setdefault(key, []).append(node)
    return [group for group in groups.values() if len(group) > 1]


def _together(products: list[ir.Node]) -> Site:
    """One product and a Split instead of ``products``, and of what follows each of them alike."""
    edit, columns = Edit(products[0]), list(map(_columns, products))
    inputs = list(products[0].inputs[:BIAS])
    matrices, scales, added = (operands_at(products, place) for place in (MATRIX, COLUMN_SCALE, BIAS))
    inputs[MATRIX] = edit.op("Concat", *matrices, axis=1, name="matrices")
    inputs[COLUMN_SCALE] = edit.op("Concat", *scales, axis=0, name="scales")
    inputs += _beside(edit, added, columns)
    result, last = edit.op(PRODUCT, *inputs, domain=MICROSOFT, name="products"), products
    if (scaled := _multiplied(products)) is not None:
        result, last = edit.op("Mul", result, scaled[0].inputs[1], name="scaled"), scaled
    additions, biases = zip(*map(bias_of, last), strict=True)
    if ir.DataType.FLOAT in dtypes_of(biases):
        result = edit.op("Add", result, *_beside(edit, biases, list(map(_columns, last))))
        last = [addition or node for addition, node in zip(additions, last, strict=True)]
    edit.op("Split", result, edit.shape("columns", columns), outputs=len(products), axis=-1, name="parts")
    for node, part in zip(last, edit.made[-1].outputs, strict=True):
        edit.replace(node.outputs[0], part, also=[*products, *last])
    names = [node.name or PRODUCT for node in products]
    return Site(names[0], (PRODUCT,) * len(products), "with " + ", ".join(names[1:]))


def _beside(edit: Edit, biases: Sequence[ir.Value | None], columns: Sequence[int]) -> list[ir.Value]:
    """One bias of the others end to end, 0 where a product has none; no bias where none has one."""
    if not provided(biases):
        return []
    vectors = []
    for bias, size in zip(biases, columns, strict=True):
        vectors.append(edit.constant("no_bias", np.zeros(size, np.float32)) if bias is None else bias)
    return [edit.op("Concat", *vectors, axis=0, name="biases")]


def _multiplied(products: list[ir.Node]) -> list[ir.Node] | None:
    """The multiplications that alone follow each product, where all are by the same value."""
    multiplications: list[ir.Node] = []
    for node in products:
        use = only_use(node.outputs[0])
        if use is None or use[0].op_type != "Mul" or use[1]:
            return None
        multiplications.append(use[0])
    alike = all(node.inputs[1] is multiplications[0].inputs[1] for node in multiplications)
    if alike and len(set(multiplications)) == len(products):
        return multiplications
    return None


def _columns(product: ir.Node) -> int:
    """How many columns it gives; 0 where that is not known, as where a negative number is declared."""
    return max(0, size_of(product.outputs[0], -1) or 0)


def _number(value: ir.Value | None) -> object:
    """A scalar constant, or which value it is."""
    number = tensors.number(value)
    return id(value) if number is None else number
