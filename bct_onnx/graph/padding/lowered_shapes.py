"""Shapes behind operators that only lowered graphs have, so that layouts are known to their end."""

from __future__ import annotations

import functools
from collections.abc import Callable

import onnx_ir as ir

from bct_onnx.graph import dims
from bct_onnx.graph.dims import Dim, Dims
from bct_onnx.graph.neighbours import producer

_SAME = (
    *("QuantizeLinear", "DequantizeLinear", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "BiasGelu"),
    *("FastGelu", "QuickGelu", "SimplifiedLayerNormalization", "DecodeInt8", "DecodeInt8Offset"),
    *("IntegerGelu", "IntegerSigmoid", "IntegerSilu", "IntegerTanh", "IntegerSoftmax", "IntegerAdd"),
    *("IntegerLayerNorm", "IntegerRMSNorm"),
)
"""Operators of any domain whose result has the shape of their first input."""


class LoweredShapes(dims.Tracker):
    """A `Tracker` that also follows operators of ONNX Runtime and of `ai.bct`; what it learns is kept beside the graph.

    Values without a type cannot have a shape in the graph.
    """

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[ir.Value, Dims] = {}

    def visit(self, node: ir.Node) -> None:
        """Learn the outputs of ``node``."""
        super().visit(node)
        for place, output in enumerate(node.outputs):
            shape = self._beside(node, place)
            if shape is not None:
                self._known[output] = shape

    def of(self, value: ir.Value | None) -> Dims | None:
        """The shape of a value, as far as it is known."""
        declared = super().of(value)
        computed = self._known.get(value) if value is not None else None
        if declared is None or computed is None or len(declared) != len(computed):
            return computed or declared
        return tuple(old if new is None else new for old, new in zip(declared, computed, strict=True))

    def stand_in(self, new: ir.Value, old: ir.Value) -> None:
        """Give a value the shape of another."""
        shape = self.of(old)
        if shape is not None:
            self._known[new] = shape

    def _beside(self, node: ir.Node, place: int) -> Dims | None:
        if node.op_type == "Split":
            return self._part(node, place)
        if place:
            return None
        if node.op_type in _SAME:
            return self.of(node.inputs[0])
        if node.op_type in ("Reshape", "Expand") and (whole := measured(node.inputs[1])) is not None:
            return self.of(whole)
        rule = _RULES.get(node.op_type)
        if rule is not None:
            return rule(self, node)
        return None if node.domain else self.shape(node)

    def _part(self, node: ir.Node, place: int) -> Dims | None:
        whole = self.of(node.inputs[0])
        sizes = self.ints(node, 1) if len(node.inputs) > 1 else None
        if whole is None or not whole:
            return None
        axis = node.attributes.get_int("axis", 0) % len(whole)
        size: Dim = None if sizes is None else sizes[place]
        if sizes is None and isinstance(width := whole[axis], int) and width % len(node.outputs) == 0:
            size = width // len(node.outputs)
        return (*whole[:axis], size, *whole[axis + 1 :])


def measured(value: ir.Value | None) -> ir.Value | None:
    """The value whose whole shape this is."""
    node = producer(value)
    if node is None or node.op_type != "Shape" or "end" in node.attributes or has_flag(node, "start"):
        return None
    return node.inputs[0]


def has_flag(node: ir.Node, name: str) -> bool:
    """Whether a number among the attributes is there and not 0."""
    attribute = node.attributes.get(name)
    return attribute is not None and bool(attribute.value)


def _product(shapes: LoweredShapes, node: ir.Node, weight: int = 1) -> Dims | None:
    left, right = shapes.of(node.inputs[0]), shapes.of(node.inputs[weight])
    if not left:
        return None
    return (*left[:-1], right[-1] if right else None)


def _gemm(shapes: LoweredShapes, node: ir.Node, weight: int = 1) -> Dims | None:
    left, right = shapes.of(node.inputs[0]), shapes.of(node.inputs[weight])
    turned = has_flag(node, "transB")
    if not left or has_flag(node, "transA"):
        return None
    if not right:
        return (left[0], None)
    return (left[0], right[0] if turned else right[1])


def _few_bits(shapes: LoweredShapes, node: ir.Node) -> Dims | None:
    left = shapes.of(node.inputs[0])
    if left:
        return (*left[:-1], node.attributes.get_int("N", 0))
    return None


def _token_scale(shapes: LoweredShapes, node: ir.Node) -> Dims | None:
    tokens = shapes.of(node.inputs[0])
    return (*tokens[:-1], 1) if tokens else None


def _of_both(second: int) -> Callable[[LoweredShapes, ir.Node], Dims | None]:
    return lambda shapes, node: dims.broadcast(shapes.of(node.inputs[0]), shapes.of(node.inputs[second]))


_RULES: dict[str, Callable[[LoweredShapes, ir.Node], Dims | None]] = {
    **dict.fromkeys(("MatMulInteger", "MatMulIntegerToFloat", "FusedMatMul"), _product),
    "QLinearMatMul": functools.partial(_product, weight=3),
    "Gemm": _gemm,
    "QGemm": functools.partial(_gemm, weight=3),
    "MatMulNBits": _few_bits,
    "TokenScale": _token_scale,
    "QLinearMul": _of_both(3),
    "QLinearAdd": _of_both(3),
}
