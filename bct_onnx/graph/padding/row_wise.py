"""Which nodes work on each token by itself, whatever stands beside it.

A value of tokens is ``[batch, sequence, ...]``, or with both axes in one ``[batch * sequence, ...]``. Without padding
it is ``[1, tokens, ...]``, or ``[tokens, ...]``: all texts are one long text. The rank stays, so that a node that
works on each token by itself is the same node before and after.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Protocol

import onnx_ir as ir

from bct_onnx.graph import operators, tensors
from bct_onnx.graph.dims import Dims
from bct_onnx.graph.functions import DOMAIN
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


def row_wise(view: View, node: ir.Node) -> int:
    """`APART` or `FLAT`, as the results are, if a node works on each token by itself; else 0."""
    rule = _RULES.get(_name(node))
    return rule(view, node) if rule is not None else 0


def operands(node: ir.Node) -> tuple[int, ...]:
    """Inputs of a node that works on each token by itself which have a row for each token, or may have."""
    name = _name(node)
    if name in _INDICES and name != "Gather":
        return (_INDICES[name],)
    if name == "Gather":
        return (1,) if node.attributes.get_int("axis", 0) == 0 else (0,)
    if name == "Expand":
        return ()
    if _RULES[name] is _elementwise or node.op_type in _CODED or name == "Concat":
        return tuple(range(len(node.inputs)))
    return (0,)


def _name(node: ir.Node) -> str:
    return operators.name(node.domain, node.op_type)


def _first(view: View, node: ir.Node) -> int:
    """The layout of the first input, if it is one of tokens."""
    return view.axes(node.inputs[0]) if view.is_content(node.inputs[0]) else 0


def neutral(shape: Dims | None, rank: int, axes: int) -> bool:
    """Whether something of this shape is the same for all tokens beside a value of ``rank``."""
    if shape is None:
        return False
    leading = ((1,) * rank + shape)[-rank:][:axes] if rank else ()
    return len(shape) <= rank and all(size == 1 for size in leading)


def _elementwise(view: View, node: ir.Node, places: Iterable[int] | None = None) -> int:
    values = [node.inputs[i] for i in (range(len(node.inputs)) if places is None else places)]
    given = [value for value in values if value is not None]
    axes = max((view.axes(value) for value in given if view.is_content(value)), default=0)
    shapes = [view.shapes.of(value) for value in given]
    if not axes or any(shape is None for shape in shapes):
        return 0
    rank = max(len(shape) for shape in shapes if shape is not None)
    for value, shape in zip(given, shapes, strict=True):
        if view.is_masking(value) and not view.is_content(value):
            return 0
        same_place = view.axes(value) == axes and shape is not None and len(shape) == rank
        if not (same_place or neutral(shape, rank, axes) or (axes == APART and view.by_position(value, rank))):
            return 0
    return axes


def _coded(*data: int) -> Rule:
    """Elementwise on some inputs; the others are scales and zero points."""

    def rule(view: View, node: ir.Node) -> int:
        axes = _elementwise(view, node, data)
        others = [value for i, value in enumerate(node.inputs) if i not in data and value is not None]
        return axes if axes and all(_fits(view, node, value, axes) for value in others) else 0

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
    if math.prod(size if isinstance(size, int) else 2 for size in shape) == 1:
        return len(shape) <= 1
    return view.is_constant(parameter) and (
        (len(shape) == 1 and axis >= axes) or (len(shape) == rank and neutral(shape, rank, axes))
    )


def _by_constants(view: View, node: ir.Node) -> int:
    """Products with weights: all inputs but the first are constant."""
    axes = _first(view, node)
    rest = [value for value in node.inputs[1:] if value is not None]
    shapes = [view.shapes.of(value) for value in rest]
    flat = all(shape is None or len(shape) <= 2 for shape in shapes)
    if node.op_type in ("Gemm", "QGemm") and (axes != FLAT or has_flag(node, "transA")):
        return 0
    return axes if flat and all(view.is_constant(value) for value in rest) else 0


def _few_bit_product(view: View, node: ir.Node) -> int:
    return _first(view, node) if all(view.is_constant(value) for value in node.inputs[1:] if value is not None) else 0


def _over_channels(view: View, node: ir.Node) -> int:
    """Normalizations and softmaxes over axes behind those of the tokens."""
    axes, shape = _first(view, node), view.shapes.of(node.inputs[0])
    others = [value for value in node.inputs[1:] if value is not None]
    if not axes or shape is None or not all(view.is_constant(value) for value in others):
        return 0
    return axes if node.attributes.get_int("axis", -1) % len(shape) >= axes else 0


def _reduction(view: View, node: ir.Node) -> int:
    axes, shape, over = _first(view, node), view.shapes.of(node.inputs[0]), view.shapes.axes(node)
    if not axes or shape is None or not over:
        return 0
    return axes if all(axis % len(shape) >= axes for axis in over) else 0


def _at_axis(view: View, node: ir.Node) -> int:
    """Parts of channels, and channels side by side."""
    values = node.inputs if node.op_type == "Concat" else node.inputs[:1]
    axes, shape = _first(view, node), view.shapes.of(node.inputs[0])
    if not axes or shape is None or any(view.axes(value) != axes for value in values):
        return 0
    return axes if node.attributes.get_int("axis", 0) % len(shape) >= axes else 0


def _slice(view: View, node: ir.Node) -> int:
    axes, shape = _first(view, node), view.shapes.of(node.inputs[0])
    over = view.shapes.ints(node, 3) if len(node.inputs) > 3 else None
    if not axes or shape is None or over is None or not all(view.is_constant(value) for value in node.inputs[1:]):
        return 0
    return axes if all(axis % len(shape) >= axes for axis in over) else 0


def _transpose(view: View, node: ir.Node) -> int:
    axes = _first(view, node)
    return axes if axes and tuple(node.attributes.get_ints("perm", ())[:axes]) == tuple(range(axes)) else 0


def _new_axes(view: View, node: ir.Node) -> int:
    axes, shape, over = _first(view, node), view.shapes.of(node.inputs[0]), view.shapes.axes(node)
    if not axes or shape is None or over is None:
        return 0
    rank = len(shape) + (len(over) if node.op_type == "Unsqueeze" else 0)
    return axes if all(axis % rank >= axes for axis in over) else 0


def channels(view: View, value: ir.Value | None, axes: int) -> tuple[int, ...] | None:
    """The sizes behind those of the tokens; None where one is not known."""
    shape = view.shapes.of(value)
    sizes = tuple(size for size in (shape or ())[axes:] if isinstance(size, int))
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
    shape = view.shapes.of(node.outputs[0])
    beyond = view.shapes.ints(node, 1)
    if axes == APART and beyond and beyond[0] == -1 and math.prod(beyond[1:]) == math.prod(inner):
        return FLAT
    if shape is not None and len(shape) >= APART and view.axes(node.outputs[0]) == APART:
        sizes = [size for size in shape[APART:] if isinstance(size, int)]
        return APART if len(sizes) == len(shape) - APART and math.prod(sizes) == math.prod(inner) else 0
    return 0


def _expand(view: View, node: ir.Node) -> int:
    """One number in the shape of a value of tokens."""
    whole = measured(node.inputs[1])
    single = view.shapes.of(node.inputs[0]) is not None and view.is_constant(node.inputs[0])
    axes = view.axes(whole) if single and view.is_content(whole) else 0
    rank = len(view.shapes.of(whole) or ()) if axes else 0
    return axes if axes and neutral(view.shapes.of(node.inputs[0]), rank, axes) else 0


def _lookup(indices: int) -> Rule:
    """Rows of a constant table for each token."""

    def rule(view: View, node: ir.Node) -> int:
        others = [value for i, value in enumerate(node.inputs) if i != indices and value is not None]
        axis = node.attributes.get_int("gather_axis", node.attributes.get_int("axis", 0))
        if axis != 0 or not all(view.is_constant(value) for value in others):
            return _over_parts(view, node) if node.op_type == "Gather" else 0
        shape = view.shapes.of(node.inputs[indices])
        return APART if shape is not None and len(shape) == APART and view.axes(node.inputs[indices]) == APART else 0

    return rule


def _over_parts(view: View, node: ir.Node) -> int:
    """Some of the channels, by constant numbers."""
    axes, shape = _first(view, node), view.shapes.of(node.inputs[0])
    if not axes or shape is None or tensors.small_constant(node.inputs[1]) is None:
        return 0
    return axes if node.attributes.get_int("axis", 0) % len(shape) >= axes else 0


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
    **dict.fromkeys(operators.named("reduction"), _reduction),
    **dict.fromkeys(("Identity", "Dropout"), _elementwise),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization", "Softmax", "LogSoftmax"), _over_channels),
    "SimplifiedLayerNormalization": _over_channels,
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
    f"{DOMAIN}::TokenScale": _over_channels,
    **dict.fromkeys(("Split", "Concat"), _at_axis),
    "Slice": _slice,
    "Transpose": _transpose,
    **dict.fromkeys(("Unsqueeze", "Squeeze"), _new_axes),
    "Reshape": _reshape,
    "Expand": _expand,
    **{name: _lookup(indices) for name, indices in _INDICES.items()},
}
