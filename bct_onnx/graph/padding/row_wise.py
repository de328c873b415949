"""Which nodes work on each token by itself, whatever stands beside it.

A value of tokens is ``[batch, sequence, ...]``, or with both axes in one ``[batch * sequence, ...]``. Without padding
it is ``[1, tokens, ...]``, or ``[tokens, ...]``: all texts are one long text. The rank stays, so that a node that
works on each token by itself is the same node before and after.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import onnx_ir as ir

from bct_onnx.graph import operators, tensors
from bct_onnx.graph.dims import Dims
from bct_onnx.graph.functions import DOMAIN
from bct_onnx.graph.known import are_ones, sizes_of
from bct_onnx.graph.neighbours import provided
from bct_onnx.graph.padding.lowered_shapes import LoweredShapes, has_flag, measured

APART, FLAT = 2, 1
"""How many leading axes count tokens: batch and sequence, or both in one."""


class View(Protocol):
    """What is asked about values."""

    shapes: LoweredShapes

    def axes(self, value: ir.Value | None) -> int:
        """`APART` or `FLAT` if a value has a row for each token, else 0."""

    def is_content(self, value: ir.Value | None) -> bool:
        """Whether numbers of tokens are in it."""

    def is_masking(self, value: ir.Value | None) -> bool:
        """Whether its numbers come from the mask."""

    def is_constant(self, value: ir.Value | None) -> bool:
        """Whether no input of the model has part in it."""

    def by_position(self, value: ir.Value | None, rank: int) -> bool:
        """Whether it has a row for each position, which all texts share."""


Rule = Callable[[View, ir.Node], int]
Holds = Callable[[View, ir.Node, int, Dims], bool]
"""Whether a node works on each token by itself, whose first input has a layout, `APART` or `FLAT`, and a shape."""


def row_wise(view: View, node: ir.Node) -> int:
    """`APART` or `FLAT`, as the results are, if a node works on each token by itself; else 0."""
    rule = _RULES.get(operators.identifier(node))
    return rule(view, node) if rule is not None else 0


def operands(node: ir.Node) -> tuple[int, ...]:
    """Inputs of a node that works on each token by itself which have a row for each token, or may have."""
    name = operators.identifier(node)
    if name in _INDICES and name != "Gather":
        return (_INDICES[name],)
    if name == "Gather":
        return (1,) if node.attributes.get_int("axis", 0) == 0 else (0,)
    if name == "Expand":
        return ()
    if _RULES[name] is _elementwise or node.op_type in _CODED or name == "Concat":
        return tuple(range(len(node.inputs)))
    return (0,)


def _first(view: View, node: ir.Node) -> int:
    """The layout of the first input, if it is one of tokens."""
    return view.axes(node.inputs[0]) if view.is_content(node.inputs[0]) else 0


def _where(holds: Holds) -> Rule:
    """The layout of the first input, where something holds of it."""

    def rule(view: View, node: ir.Node) -> int:
        axes, shape = _first(view, node), view.shapes.of(node.inputs[0])
        return axes if axes and shape is not None and holds(view, node, axes, shape) else 0

    return rule


def _all_constant(view: View, values: Iterable[ir.Value | None]) -> bool:
    return all(map(view.is_constant, provided(values)))


def _behind(axes: int, over: Iterable[int] | None, rank: int) -> bool:
    """Whether axes of a value are known and lie behind those of its tokens."""
    return over is not None and all(axis % rank >= axes for axis in over)


def neutral(shape: Dims | None, rank: int, axes: int) -> bool:
    """Whether something of this shape is the same for all tokens beside a value of ``rank``."""
    if shape is None:
        return False
    leading = ((1,) * rank + shape)[-rank:][:axes] if rank else ()
    return len(shape) <= rank and are_ones(leading)


def _elementwise(view: View, node: ir.Node) -> int:
    return _side_by_side(view, provided(node.inputs))


def _side_by_side(view: View, values: Sequence[ir.Value]) -> int:
    """The layout of values of tokens, beside which all others are the same for all of these."""
    axes, shapes = 0, list[Dims]()
    for value in values:
        shape = view.shapes.of(value)
        if shape is None or (view.is_masking(value) and not view.is_content(value)):
            return 0
        shapes.append(shape)
        if view.is_content(value):
            axes = max(axes, view.axes(value))
    rank = max(map(len, shapes), default=0)
    for value, shape in zip(values, shapes, strict=True):
        same_place = view.axes(value) == axes and len(shape) == rank
        if not (same_place or neutral(shape, rank, axes) or (axes == APART and view.by_position(value, rank))):
            return 0
    return axes


def _coded(*data: int) -> Rule:
    """Elementwise on some inputs; the others are scales and zero points."""

    def rule(view: View, node: ir.Node) -> int:
        given = [(index in data, value) for index, value in enumerate(node.inputs) if value is not None]
        axes = _side_by_side(view, [value for is_data, value in given if is_data])
        fitting = all(is_data or _fits(view, node, value, axes) for is_data, value in given)
        return axes if fitting else 0

    return rule


def _fits(view: View, node: ir.Node, parameter: ir.Value, axes: int) -> bool:
    """Whether a scale or zero point is the same for all tokens, or has one for each."""
    shape, rank = view.shapes.of(parameter), len(view.shapes.of(node.inputs[0]) or ())
    axis = node.attributes.get_int("axis", -1 if node.domain == DOMAIN else 1)
    axis = axis % rank if rank else axis
    if view.axes(parameter) == axes:
        return True
    if shape is None:
        return False
    if are_ones(shape):
        return len(shape) <= 1
    return view.is_constant(parameter) and (
        (len(shape) == 1 and axis >= axes) or (len(shape) == rank and neutral(shape, rank, axes))
    )


def _by_constants(view: View, node: ir.Node) -> int:
    """Products with weights: all inputs but the first are constant."""
    axes = _first(view, node)
    if node.op_type in ("Gemm", "QGemm") and (axes != FLAT or has_flag(node, "transA")):
        return 0
    for value in node.inputs[1:]:
        if value is not None and (not view.is_constant(value) or len(view.shapes.of(value) or ()) > 2):
            return 0
    return axes


def _few_bit_product(view: View, node: ir.Node) -> int:
    return _first(view, node) if _all_constant(view, node.inputs[1:]) else 0


def _over_channels(view: View, node: ir.Node, axes: int, shape: Dims) -> bool:
    """Normalizations and softmaxes over axes behind those of the tokens."""
    over = node.attributes.get_int("axis", -1)
    return _all_constant(view, node.inputs[1:]) and _behind(axes, [over], len(shape))


def _reduction(view: View, node: ir.Node, axes: int, shape: Dims) -> bool:
    over = view.shapes.axes(node)
    return bool(over) and _behind(axes, over, len(shape))


def _at_axis(view: View, node: ir.Node, axes: int, shape: Dims) -> bool:
    """Parts of channels, and channels side by side."""
    if node.op_type == "Concat" and any(view.axes(value) != axes for value in node.inputs):
        return False
    return _behind(axes, [node.attributes.get_int("axis", 0)], len(shape))


def _slice(view: View, node: ir.Node, axes: int, shape: Dims) -> bool:
    if len(node.inputs) <= 3 or not all(map(view.is_constant, node.inputs[1:])):
        return False
    return _behind(axes, view.shapes.ints(node, 3), len(shape))


def _transpose(view: View, node: ir.Node) -> int:
    axes = _first(view, node)
    return axes if tuple(node.attributes.get_ints("perm", ())[:axes]) == tuple(range(axes)) else 0


def _new_axes(view: View, node: ir.Node, axes: int, shape: Dims) -> bool:
    over, rank = view.shapes.axes(node), len(shape)
    if over is not None and node.op_type == "Unsqueeze":
        rank += len(over)
    return _behind(axes, over, rank)


def channels(view: View, value: ir.Value | None, axes: int) -> tuple[int, ...] | None:
    """The sizes behind those of the tokens; None where one is not known."""
    shape = view.shapes.of(value)
    sizes = tuple(sizes_of((shape or ())[axes:]))
    return sizes if shape is not None and len(sizes) == len(shape) - axes else None


def _reshape(view: View, node: ir.Node) -> int:
    """Channels in another shape, and tokens in one axis instead of two, or back."""
    axes = _first(view, node)
    inner = channels(view, node.inputs[0], axes) if axes else None
    if inner is None:
        return 0
    whole = measured(node.inputs[1])
    if whole is not None and view.is_content(whole) and (made := view.axes(whole)):
        return made if channels(view, whole, made) is not None else 0
    sizes = view.shapes.ints(node, 1)
    if axes == APART and sizes and sizes[0] == -1 and math.prod(sizes[1:]) == math.prod(inner):
        return FLAT
    outer = channels(view, node.outputs[0], APART) if view.axes(node.outputs[0]) == APART else None
    return APART if outer is not None and math.prod(outer) == math.prod(inner) else 0


def _expand(view: View, node: ir.Node) -> int:
    """One number in the shape of a value of tokens."""
    whole = measured(node.inputs[1])
    if not view.is_constant(node.inputs[0]) or not view.is_content(whole):
        return 0
    axes, rank = view.axes(whole), len(view.shapes.of(whole) or ())
    return axes if neutral(view.shapes.of(node.inputs[0]), rank, axes) else 0


def _lookup(indices: int, view: View, node: ir.Node) -> int:
    """Rows of a constant table for each token."""
    ids, others = node.inputs[indices], [*node.inputs[:indices], *node.inputs[indices + 1 :]]
    axis = node.attributes.get_int("gather_axis", node.attributes.get_int("axis", 0))
    if axis != 0 or not _all_constant(view, others):
        return _where(_over_parts)(view, node) if node.op_type == "Gather" else 0
    return APART if len(view.shapes.of(ids) or ()) == APART == view.axes(ids) else 0


def _over_parts(view: View, node: ir.Node, axes: int, shape: Dims) -> bool:
    """Some of the channels, by constant numbers."""
    known = tensors.small_constant(node.inputs[1]) is not None
    return known and _behind(axes, [node.attributes.get_int("axis", 0)], len(shape))


_INDICES = {
    "Gather": 1,
    "com.microsoft::GatherBlockQuantized": 1,
    f"{DOMAIN}::GatherBlocks": 3,
    f"{DOMAIN}::GatherPlanes": 3,
    f"{DOMAIN}::GatherSlices": 3,
    f"{DOMAIN}::GatherRows": 2,
}
"""Lookups, and the input that says which rows."""

_CODED = ("QuantizeLinear", "DequantizeLinear", "QLinearMul", "QLinearAdd", "IntegerAdd")
"""Operators whose scales may be one for each token, or that read two values of tokens."""

_FUNCTIONS = ("IntegerLayerNorm", "IntegerRMSNorm", "IntegerSoftmax", "IntegerGelu", "IntegerSigmoid", "IntegerTanh")

_RULES: dict[str, Rule] = {
    **dict.fromkeys(operators.named("arithmetic", "activation", "test", "choice", "cast"), _elementwise),
    **dict.fromkeys(operators.named("reduction"), _where(_reduction)),
    **dict.fromkeys(("Identity", "Dropout"), _elementwise),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization", "Softmax", "LogSoftmax"), _where(_over_channels)),
    "SimplifiedLayerNormalization": _where(_over_channels),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _coded(0)),
    **dict.fromkeys(("com.microsoft::QuantizeLinear", "com.microsoft::DequantizeLinear"), _coded(0)),
    **dict.fromkeys(("com.microsoft::QLinearSigmoid", "com.microsoft::QLinearLeakyRelu"), _coded(0)),
    **dict.fromkeys(("com.microsoft::QLinearMul", "com.microsoft::QLinearAdd"), _coded(0, 3)),
    **dict.fromkeys(("MatMul", "Gemm", "MatMulInteger", "QLinearMatMul"), _by_constants),
    **dict.fromkeys(("com.microsoft::MatMulIntegerToFloat", "com.microsoft::QGemm"), _by_constants),
    "com.microsoft::MatMulNBits": _few_bit_product,
    **dict.fromkeys(("com.microsoft::BiasGelu", "com.microsoft::FastGelu"), _elementwise),
    **{f"{DOMAIN}::{function}": _coded(0) for function in _FUNCTIONS},
    f"{DOMAIN}::IntegerAdd": _coded(0, 3),
    f"{DOMAIN}::TokenScale": _where(_over_channels),
    **dict.fromkeys(("Split", "Concat"), _where(_at_axis)),
    "Slice": _where(_slice),
    "Transpose": _transpose,
    **dict.fromkeys(("Unsqueeze", "Squeeze"), _where(_new_axes)),
    "Reshape": _reshape,
    "Expand": _expand,
    **{name: functools.partial(_lookup, indices) for name, indices in _INDICES.items()},
}
