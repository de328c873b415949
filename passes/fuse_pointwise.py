"""A convolution with a kernel of 1 becomes ``MatMul`` and ``Add``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from bct_onnx.base import Declined, NodePass, NodeRewriter, Outcome, Site
from bct_onnx.forms import weights
from bct_onnx.forms.operands import LaidOut
from bct_onnx.graph import dims, views
from bct_onnx.graph.known import are_ones, constant_nbytes, without_ones
from bct_onnx.graph.names import answers
from bct_onnx.graph.neighbours import made_by, of_types, operand, producers, reached
from bct_onnx.graph.transposes import TypedEdit

_THROUGH = ("Relu", "Sigmoid", "HardSwish", "HardSigmoid", "Clip", "Gelu", "Tanh", "LeakyRelu", "Add", "Mul", "Swish")
"""Operators behind which the layout of a product is still at hand."""


@dataclasses.dataclass(frozen=True)
class FusePointwise(NodePass):
    """Lift every ``Conv`` whose kernel is 1 to ``MatMul`` and ``Add`` with the channels last.

    Why:
        A convolution of one tap is a linear layer. Exports for accelerators write all projections so, Conformer, VITS
        and their kin the feed-forward part of every layer; as products they get few-bit weights and int8 kernels.

    Before/after:
        ``Conv(x[B, C, T], W[N, C, 1], b)`` becomes ``Transpose(Add(MatMul(Transpose(x), W'), b))`` with ``W'`` [C, N];
        with strides, a ``Slice`` comes first. Transposes that meet undo each other, also across operators that look at
        each element alone, so that ``Conv``, ``Relu``, ``Conv`` has one in front and one behind. In
        networks that have larger kernels too, weights of images are marked: quantize-weights gives them 8 bits,
        the whole range.

    Declines:
        Larger kernels, groups, padding, a computed weight or one that is used elsewhere too, fewer than ``minimum``
        values. Images, whose transposition costs more than the product gains below ``wide`` values: lifted all the same
        where channels are last around them, or where they are one pixel high or wide.

    Options:
        minimum: Weights with fewer values stay as they are.
        wide: Values from which on the convolution of an image is lifted whatever is around it.

    Promise:
        Exact up to float rounding.

    >>> model = ir.from_onnx_text('''<ir_version: 10, opset_import: ["": 23]>
    ...     g (float[b,4,t] x) => (float[b,2,t] y) <float[2,4,1] w = {1, 2, 3, 4, 5, 6, 7, 8}> { y = Conv (x, w) }''')
    >>> [node.op_type for node in FusePointwise(minimum=1)(model).model.graph]
    ['Transpose', 'MatMul', 'Transpose']
    """

    name: ClassVar[str] = "fuse-pointwise"
    operators: ClassVar[tuple[str, ...]] = ("Conv",)

    minimum: int = 1024
    wide: int = 8192

    def rewriter(self, model: ir.Model, nodes: Sequence[ir.Node]) -> NodeRewriter:
        """Look at all weights first: a constant must not have to be stored twice."""
        return _Lifting(self, model, nodes)


class _Lifting(LaidOut):
    """One run over a model: its weights, and the values made so far."""

    def __init__(self, options: FusePointwise, model: ir.Model, nodes: Sequence[ir.Node]) -> None:
        super().__init__(model)
        self._options = options
        self._is_convnet = any(map(_overlaps, nodes))
        self._matrices = answers(_matrix, nodes)
        self._lifted: set[ir.Value] = set()

    def __call__(self, node: ir.Node) -> Outcome:
        matrix = self._matrices.get(node)
        if matrix is None:  # a larger kernel, or a computed weight
            return None
        if reason := self._refuse(node, matrix):
            return Declined(node.name or "Conv", reason, constant_nbytes(node.inputs[1]))
        return self._lift(node, matrix)

    def _refuse(self, node: ir.Node, matrix: views.View) -> str:
        """Why a convolution with a kernel of 1 stays as it is; empty if it is lifted."""
        minimum, wide = self._options.minimum, self._options.wide
        if dims.of(node.inputs[0]) is None:
            return "the rank of its input is not known"
        if matrix.size < minimum:
            return f"fewer than {minimum} values"
        if _is_image(node) and matrix.size < wide and not _is_at_hand(node.inputs[0], self._lifted):
            return f"an image of few channels: a product of fewer than {wide} weights would be slower"
        return views.twice(matrix, self._matrices)

    def _lift(self, node: ir.Node, matrix: views.View) -> Site:
        """Build the product between two transposes in place of ``node``."""
        edit = TypedEdit(node, self._tracker)
        x, rank = node.inputs[0], len(dims.of(node.inputs[0]) or ())
        assert x is not None
        strides = [*(node.attributes.get_ints("strides") or [])]
        x = edit.transposed(_strided(edit, x, strides), [0, *range(2, rank), 1])
        weight = self._views.constant(matrix)
        if self._is_convnet and rank > 3:  # also where an image is pooled to one pixel or one row
            weight.meta[weights.SENSITIVE] = True
        y = edit.op("MatMul", x, weight)
        product = edit.made[-1]
        if (bias := operand(node, 2)) is not None:
            y = edit.op("Add", y, bias)
        y = edit.op("Transpose", y, perm=[0, rank - 1, *range(1, rank - 1)], name="channels_first")
        edit.replace(node.outputs[0], y)
        self._transposes.update(of_types(edit.made, "Transpose"))
        self._lifted.add(y)
        return Site(product.name or "", ("Conv",))


def _is_image(node: ir.Node) -> bool:
    """Whether a convolution goes over more than one dimension, none of which is 1."""
    return len(without_ones((dims.of(node.inputs[0]) or ())[2:])) > 1


def _overlaps(node: ir.Node) -> bool:
    """Whether neighbours of an image share pixels: true of what makes a convnet, not of a cut into patches."""
    view = views.of(node.inputs[1])
    kernel = () if view is None else view.shape[2:]
    strides = node.attributes.get_ints("strides") or [1] * len(kernel)
    return len(kernel) > 1 and any(size > step for size, step in zip(kernel, strides, strict=False))


def _strided(edit: TypedEdit, x: ir.Value, strides: list[int]) -> ir.Value:
    """The positions that a convolution looks at, in front of a transposition that made ``x``."""
    if are_ones(strides):
        return x
    transpose = made_by(x, "Transpose")
    perm = None if transpose is None else transpose.attributes.get_ints("perm")
    if transpose is None or perm is None:
        return _sliced(edit, x, range(2, 2 + len(strides)), strides)
    sliced = _sliced(edit, transpose.inputs[0], perm[2 : 2 + len(strides)], strides)
    return edit.op("Transpose", sliced, perm=list(perm), name="strided")


def _sliced(edit: TypedEdit, x: ir.Value | None, axes: Sequence[int], strides: list[int]) -> ir.Value:
    """Every position that is a multiple of the stride of its axis."""
    starts, ends = [0] * len(strides), [np.iinfo(np.int64).max] * len(strides)
    numbers = {"starts": starts, "ends": ends, "axes": list(axes), "steps": strides}
    parameters = [edit.shape(name, each) for name, each in numbers.items()]
    return edit.op("Slice", x, *parameters, name="strided")


def _matrix(node: ir.Node) -> views.View | None:
    """The weight [C, N] of a convolution with a kernel of 1; None where it is none."""
    view = views.of(node.inputs[1])
    if view is None or len(view.shape) < 3 or not are_ones(view.shape[2:]):
        return None
    if node.attributes.get_int("group", 1) != 1 or any(node.attributes.get_ints("pads") or []):
        return None
    return view.reshape(*view.shape[:2]).transpose(1, 0)


def _puts_channels_second(node: ir.Node) -> bool:
    """Whether a node moves the last axis behind the first."""
    if node.op_type != "Transpose":
        return False
    perm = list(node.attributes.get_ints("perm") or [])
    return bool(perm) and perm == [0, len(perm) - 1, *range(1, len(perm) - 1)]


def _is_at_hand(value: ir.Value | None, lifted: set[ir.Value]) -> bool:
    """Whether a value is made of what has its channels last, element by element."""
    behind = reached(producers([value]), _elementwise)
    return any(_puts_channels_second(node) or not lifted.isdisjoint(node.outputs) for node in behind)


def _elementwise(node: ir.Node) -> list[ir.Node]:
    """The nodes whose results a node works on element by element."""
    if node.op_type in _THROUGH and not node.domain:
        return producers(node.inputs)
    return []
