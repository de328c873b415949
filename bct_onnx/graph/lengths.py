"""What does nothing but decide how large values are: the part of a speech model that says how long each sound is, say.

A number that is rounded to a length jumps where it is near a half, and all that comes behind it moves: noise that no
other part of a model would suffer from makes a word longer or shorter. Such a part is small where it is one of several
heads; where it is most of the model, it is what the model is for.
"""

from __future__ import annotations

import onnx_ir as ir

from bct_onnx.graph.neighbours import operand, producer, provided, reached, sources
from bct_onnx.graph.tensors import FLOATS

SIZES = {
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Expand": (1,),
    "Tile": (1,),
    "ConstantOfShape": (0,),
    "Slice": (1, 2),
    "Pad": (1,),
    "Resize": (2, 3),
    "Upsample": (1,),
    "TopK": (1,),
    "OneHot": (1,),
    "NonZero": (0,),
    "Compress": (1,),
}
"""Inputs of standard operators whose numbers decide how large the result is."""

COUNTING = ("Shape", "Size")
"""Operators whose results do not depend on numbers."""

ROUNDING = ("Ceil", "Floor", "Round", "Cast", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
"""Operators that make whole numbers, or a yes and a no, of floats."""

SHARE = 1 / 8
"""Of the values of all weights: what decides lengths stays float as long as it holds no more."""

REASON = "it only decides how long a value is, which rounding would change"


def deciding(model: ir.Model) -> frozenset[ir.Node]:
    """Nodes of the main graph whose results only reach numbers that are rounded, and of which a size depends.

    None where they hold more than `SHARE` of the weights.
    """
    sizing = set(map(producer, sizing_values(model.graph)))
    only: set[ir.Node] = set()
    for node in reversed(model.graph):
        if _only_decides(node, only, sizing):
            only.add(node)
    weights = [value for value in model.graph.initializers.values() if value.dtype in FLOATS]
    inside = [value for value in weights if not only.isdisjoint(value.consumers())]
    if sum(map(_count, inside)) > SHARE * sum(map(_count, weights)):
        return frozenset()
    return frozenset(only)


def sizing_values(graph: ir.Graph) -> set[ir.Value]:
    """Values whose numbers a size depends on."""
    queue: list[ir.Value | None] = []
    for node in graph:
        places = SIZES.get(node.op_type, ()) if not node.domain else ()
        queue += [operand(node, place) for place in places]
    return set(reached(filter(_is_number, provided(queue)), lambda value: filter(_is_number, sources(value))))


def _is_number(value: ir.Value) -> bool:
    """Whether a value is computed from numbers, not from sizes."""
    maker = value.producer()
    return maker is None or maker.op_type not in COUNTING


def _only_decides(node: ir.Node, only: set[ir.Node], sizing: set[ir.Node | None]) -> bool:
    """Whether all that reads a node's results is in ``only``, rounds them to a size, or asks for their size alone."""
    for value in node.outputs:
        if value.is_graph_output():
            return False
        for user in value.consumers():
            rounds = user in sizing and user.op_type in ROUNDING and value.dtype in FLOATS
            if user.op_type not in COUNTING and user not in only and not rounds:
                return False
    return any(map(ir.Value.uses, node.outputs))


def _count(value: ir.Value) -> int:
    if value.const_value is None:
        return 0
    return value.const_value.size
