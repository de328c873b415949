"""What one row of a node's result needs: the same row of some inputs, and all of the others.

A row is what stands at one position of an axis: a token of ``[batch, tokens, channels]``, the scores of one query of
``[batch, heads, queries, keys]``. An operator that is not in the table below, or that mixes rows in this place, needs
them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from bct_onnx.graph import operators, tensors
from bct_onnx.graph.dims import Dims
from bct_onnx.graph.neighbours import operand, provided

Rows = dict[int, int]
"""By the place of an input, on which of its axes the row is taken; other inputs are needed whole."""

Shapes = Callable[["ir.Value | None"], "Dims | None"]
Rule = Callable[[ir.Node, int, Shapes], "Rows | None"]


def needed(node: ir.Node, axis: int, shapes: Shapes) -> Rows | None:
    """What a row of a node's results needs; None where it takes all rows, or that is not known.

    Args:
        node: The node.
        axis: Of its results, counted from the front.
        shapes: What is known of the shape of a value.
    """
    rule = _RULES.get(operators.identifier(node))
    if rule is None:
        return None
    return rule(node, axis, shapes)


def reshaped(node: ir.Node, axis: int) -> np.ndarray | None:
    """The shape that a ``Reshape`` of one row is given; None where the one it has does for that too."""
    shape = tensors.small_constant(node.inputs[1])
    if shape is None or shape[axis] in (0, -1):
        return None
    shape[axis] = 1
    return shape


def _elementwise(node: ir.Node, axis: int, shapes: Shapes) -> Rows | None:
    """Inputs with as many rows give one of them; those with a single one, for all rows, stay whole."""
    result = shapes(node.outputs[0])
    if result is None or result[axis] is None:
        return None
    rows: Rows = {}
    for index, value in enumerate(node.inputs):
        shape = shapes(value)
        if value is None or (shape is not None and _is_shared(shape, axis, len(result))):
            continue
        place = axis - len(result) + (0 if shape is None else len(shape))
        if shape is None or shape[place] != result[axis]:
            return None
        rows[index] = place
    return rows


def _is_shared(shape: Dims, axis: int, rank: int) -> bool:
    """Whether a value of this shape is the same for all rows of a result of some rank."""
    place = axis - rank + len(shape)
    return place < 0 or shape[place] == 1


def _matmul(node: ir.Node, axis: int, shapes: Shapes) -> Rows | None:
    """Rows of the left operand, whatever the right one is."""
    left, right, result = map(shapes, (*node.inputs[:2], node.outputs[0]))
    if left is None or right is None or result is None or min(len(left), len(right)) < 2 or axis != len(result) - 2:
        return None
    return {0: len(left) - 2}


def _over_channels(node: ir.Node, axis: int, shapes: Shapes) -> Rows | None:
    """Normalizations over axes behind that of the rows, of which their scale and bias know nothing."""
    shape, parameters = shapes(node.inputs[0]), list(map(shapes, provided(node.inputs[1:])))
    if shape is None or any(each is None or not _is_shared(each, axis, len(shape)) for each in parameters):
        return None
    if any(map(ir.Value.uses, node.outputs[1:])):
        return None
    if node.attributes.get_int("axis", -1) % len(shape) > axis:
        return {0: axis}
    return None


def _softmax(node: ir.Node, axis: int, shapes: Shapes) -> Rows | None:
    shape = shapes(node.inputs[0])
    if shape is None or node.attributes.get_int("axis", -1) % len(shape) == axis:
        return None
    return {0: axis}


def _attention(node: ir.Node, axis: int, shapes: Shapes) -> Rows | None:
    """A query looks at all keys and values; a mask may have a row for each query."""
    tokens = 1 if "q_num_heads" in node.attributes else 2  # heads beside each other, or on an axis of their own
    if axis != tokens or node.attributes.get_int("is_causal", 0) != 0:
        return None
    if provided(node.inputs[4:]) or any(map(ir.Value.uses, node.outputs[1:])):
        return None
    mask = operand(node, 3)
    if mask is None:
        return {0: axis}
    shape = shapes(mask)
    if shape is None or len(shape) < 2 or shape[-2] is None:
        return None
    if shape[-2] == 1:
        return {0: axis}
    return {0: axis, 3: len(shape) - 2}


def _transpose(node: ir.Node, axis: int, shapes: Shapes) -> Rows | None:
    perm = node.attributes.get_ints("perm")
    if not perm:
        return None
    return {0: perm[axis]}


def _reshape(node: ir.Node, axis: int, shapes: Shapes) -> Rows | None:
    """A new shape of what is behind the rows, by a constant."""
    before, after = shapes(node.inputs[0]), shapes(node.outputs[0])
    if before is None or after is None or tensors.small_constant(node.inputs[1]) is None:
        return None
    leading = before[: axis + 1]
    is_same = leading == after[: axis + 1] and None not in leading and len(leading) == axis + 1
    if is_same and not node.attributes.get_int("allowzero", 0):
        return {0: axis}
    return None


def _at_other_axis(node: ir.Node, axis: int, shapes: Shapes) -> Rows | None:
    """Channels side by side, and parts of them."""
    shape = shapes(node.inputs[0])
    if shape is None or node.attributes.get_int("axis", 0) % len(shape) == axis:
        return None
    return dict.fromkeys(range(len(node.inputs) if node.op_type == "Concat" else 1), axis)


def _slice(node: ir.Node, axis: int, shapes: Shapes) -> Rows | None:
    shape = shapes(node.inputs[0])
    axes = tensors.small_constant(operand(node, 3))
    if shape is None or axes is None or any(int(sliced) % len(shape) == axis for sliced in axes.flat):
        return None
    return {0: axis}


def _first_alone(node: ir.Node, axis: int, shapes: Shapes) -> Rows | None:
    return {0: axis}


_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(operators.named("arithmetic", "activation", "test", "choice"), _elementwise),
    **dict.fromkeys(("Cast", "CastLike", "Identity"), _first_alone),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _over_channels),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    **dict.fromkeys(("Concat", "Split"), _at_other_axis),
    "MatMul": _matmul,
    "Attention": _attention,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Slice": _slice,
}
