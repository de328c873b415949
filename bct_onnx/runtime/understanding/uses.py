"""What a graph does with each of its inputs: the evidence by which an input is understood.

An input is followed through the operators that move numbers without changing them. Where it arrives tells what it is:
in the indices of a table, beside positions in a comparison, in a condition, in a convolution.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from bct_onnx.graph import operators, tensors
from bct_onnx.graph.functions import inlined
from bct_onnx.graph.neighbours import is_read_by, of_types, producer
from bct_onnx.runtime.understanding import tables
from bct_onnx.runtime.understanding.counting import counts_up, measures, positions, strides

MOVES = operators.named(*operators.MOVES, "cast") | {"Clip", "Max", "Min", "Mod", "Pad", "Round", "Ceil", "Floor"}
"""Operators whose first input's numbers come out, at other places perhaps, or rounded."""

ALL_MOVE = frozenset(("Concat", "Where", "Max", "Min"))
"""The same of all inputs; the condition of `Where` is none."""

COMPARISONS = frozenset(("Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Equal"))

LENGTHS = {
    ("", "Range"): (0, 1),
    ("", "Slice"): (1, 2),
    ("", "ReverseSequence"): (1,),
    **{("", operator): (4,) for operator in ("LSTM", "GRU", "RNN")},
    ("", "Attention"): (6,),
}
"""Inputs of operators that count what is in a sequence."""

SIZES = {("", "Reshape"): 1, ("", "Expand"): 1, ("", "ConstantOfShape"): 0, ("", "Tile"): 1, ("", "TopK"): 1}
"""Inputs of operators that say how large a result is."""

TOTALS = {("com.microsoft", "GroupQueryAttention"): {5: "seqlens", 6: "total"}}
"""Inputs of operators that say how full a cache is."""

MASKS = {
    ("", "Where"): (0,),
    ("", "Not"): (0,),
    ("", "And"): (0, 1),
    ("", "Or"): (0, 1),
    ("", "Xor"): (0, 1),
    ("", "Attention"): (3,),
    ("", "CumSum"): (0,),
    ("com.microsoft", "Attention"): (3,),
    ("com.microsoft", "MultiHeadAttention"): (4, 5),
    ("com.microsoft", "EmbedLayerNormalization"): (7,),
}
"""Inputs of operators that choose."""

ROWS = {
    ("com.microsoft", "EmbedLayerNormalization"): {0: 2, 1: 4, 8: 3},
    ("com.microsoft", "RotaryEmbedding"): {1: 2},
    ("", "RotaryEmbedding"): {3: 1},
}
"""Inputs of operators that pick rows of another input: of which one."""


LONG = 1024
"""Elements of the longest constant that is taken for a mean or a scale, one for each channel."""


@dataclasses.dataclass(frozen=True)
class Uses:
    """What becomes of one input.

    Attributes:
        rows: Rows of the smallest table that it picks from; None where it picks from none.
        arrives: Kinds of places where its numbers arrive: ``length``, ``size``, ``mask``, ``branch``, ``position``,
            ``bias``, ``image``, ``audio``, ``total``, ``seqlens``, ``pick`` (from computed values), ``part`` of a
            size, ``summed``.
        constants: What it is compared with for equality.
        beside: Inputs whose axes it is compared with, as a length.
        affine: Factor and term that its numbers get before a convolution or product.
        stride: Steps of the convolutions that it goes through, multiplied: how many of its frames make a token.
    """

    rows: int | None = None
    arrives: frozenset[str] = frozenset()
    constants: tuple[float, ...] = ()
    beside: tuple[str, ...] = ()
    affine: tuple[float, float] = (1.0, 0.0)
    stride: int = 1


def uses_of(model: ir.Model) -> dict[str, Uses]:
    """The uses of every input by name; model-local functions are looked into."""
    if model.functions:
        model = inlined(model)
    return {value.name or "": _Trail(value).uses() for value in model.graph.inputs}


class _Trail:
    """One input, followed to where its numbers arrive."""

    def __init__(self, start: ir.Value) -> None:
        self._start = start
        self._rows: list[int] = []
        self._arrives: set[str] = set()
        self._constants: list[float] = []
        self._beside: dict[str, None] = {}
        self._affine = (1.0, 0.0)
        self._queue: list[tuple[ir.Value, float, float]] = [(start, 1.0, 0.0)]
        self._seen = {start}

    def uses(self) -> Uses:
        """What is found at the ends of all ways."""
        while self._queue:
            value, factor, term = self._queue.pop()
            for node, index in value.uses():
                self._look(node, index, (factor, term))
                self._go_on(node, index, factor, term)
        rows = min(self._rows, default=None)
        constants = tuple(dict.fromkeys(self._constants))
        stride = strides(self._start)
        return Uses(rows, frozenset(self._arrives), constants, tuple(self._beside), self._affine, stride)

    def _look(self, node: ir.Node, index: int, affine: tuple[float, float]) -> None:
        if (rows := _picked(node, index)) is not None:
            if rows > 0:
                self._rows.append(_rows_below(rows, affine))
            else:
                self._arrives.add("pick")
        if node.op_type in COMPARISONS and not node.domain:
            self._compare(node, index)
        self._arrives.update(_places(node, index))
        if affine != (1.0, 0.0) and index == 0 and node.op_type in ("Conv", "MatMul", "Gemm"):
            self._affine = affine

    def _compare(self, node: ir.Node, index: int) -> None:
        other = node.inputs[1 - index]
        constant = tensors.small_constant(other)
        if constant is not None and constant.size == 1:
            if node.op_type == "Equal":
                self._constants.append(float(constant.reshape(-1)[0]))
            self._arrives.add("compared")
            return
        counted = positions(other)
        if node.op_type == "Equal" and other is not None and counts_up(other):  # one-hot rows
            tensor = ir.convenience.get_const_tensor(other)
            self._rows.append(1 if tensor is None else tensor.size)
        elif counted is not None:
            self._arrives.add("length")
            self._beside.update(dict.fromkeys(counted))

    def _go_on(self, node: ir.Node, index: int, factor: float, term: float) -> None:
        if node.domain or (node.op_type == "Where" and index == 0):
            return
        if not ((node.op_type in MOVES and index == 0) or node.op_type in ALL_MOVE):
            step = _step(node, index) or self._times_computed(node, index) or _in_its_row(node, index)
            if step is None:
                return
            factor, term = factor * step[0], term * step[0] + step[1]
        self._queue += [(output, factor, term) for output in node.outputs if output not in self._seen]
        self._seen.update(node.outputs)

    def _times_computed(self, node: ir.Node, index: int) -> tuple[float, float] | None:
        """As they are where integers are multiplied by a mask, or parts by the size of the whole; None elsewhere."""
        other = node.inputs[1 - index] if node.op_type == "Mul" else None
        if other is None or self._start.dtype is None or self._start.shape is None:
            return None
        if self._start.dtype.is_integer():
            return (1.0, 0.0)
        if len(self._start.shape) != 1 or not measures(other):
            return None
        self._arrives.add("part")
        return (1.0, 0.0)


def _in_its_row(node: ir.Node, index: int) -> tuple[float, float] | None:
    """As they are where places within rows get the first of each row in a matrix of all rows; None elsewhere.

    So exporters write ``x[arange(batch), place]``: rows of ``x`` laid end to end, at ``place + arange(batch) * size``.
    """
    firsts = producer(node.inputs[1 - index]) if node.op_type == "Add" else None
    if firsts is None or firsts.op_type != "Mul":
        return None
    for counted, length in (firsts.inputs, reversed(firsts.inputs)):
        if length is not None and positions(counted) is not None and measures(length):
            return (1.0, 0.0)
    return None


def _rows_below(rows: int, affine: tuple[float, float]) -> int:
    """What numbers stay below whose products with a factor, and a term added, pick from so many rows."""
    factor, term = affine
    return max(1, int((rows - 1 - term) // factor) + 1) if factor > 0 else rows


def _step(node: ir.Node, index: int) -> tuple[float, float] | None:
    """Factor and term of a node that multiplies by or adds constants; None for others.

    Of several terms it is the mean, and of whole numbers, with which columns pick from parts of one table, that which
    brings indices furthest up.
    """
    if node.op_type == "BatchNormalization" and index == 0:
        gain, shift, mean, variance = (tensors.small_constant(value, LONG) for value in node.inputs[1:5])
        if gain is None or shift is None or mean is None or variance is None:
            return None
        factors = gain / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        return float(np.mean(factors)), float(np.mean(shift - mean * factors))
    other = _number(node.inputs[1 - index], node.op_type) if node.op_type in ("Add", "Sub", "Mul", "Div") else None
    if other is None or (node.op_type in ("Sub", "Div") and index == 1):
        return None
    steps = {"Add": (1.0, other), "Sub": (1.0, -other), "Mul": (other, 0.0), "Div": (1.0 / (other or 1.0), 0.0)}
    return steps[node.op_type] if other or node.op_type in ("Add", "Sub") else None


def _places(node: ir.Node, index: int) -> Iterator[str]:
    """Kinds of places that an input of ``node`` is."""
    operator = (node.domain, node.op_type)
    yield from ("length",) if index in LENGTHS.get(operator, ()) else ()
    yield from ("size",) if SIZES.get(operator) == index else ()
    yield from ("mask",) if index in MASKS.get(operator, ()) or _makes_boolean(node) else ()
    yield from (TOTALS[operator][index],) if index in TOTALS.get(operator, {}) else ()
    if node.domain:
        return
    if node.op_type in ("If", "Loop") and index < 2:
        yield "branch"
    if node.op_type in ("Sin", "Cos"):
        yield "position"
    if node.op_type == "Sub" and index == 1 and tensors.number(node.inputs[0]) == 1.0:
        yield "mask"
    if _is_term(node, index):
        yield "bias"
    if node.op_type in ("Log", "Sqrt"):
        yield "positive"
    if node.op_type == "ReduceSum" and index == 0:
        yield "summed"
    yield from _signals(node, index)


def _is_term(node: ir.Node, index: int) -> bool:
    """Whether an input is added to the scores of an attention."""
    if node.op_type == "Attention" and index == 3:
        mask = node.inputs[index]
        return mask is not None and mask.dtype is not None and mask.dtype.is_floating_point()
    return node.op_type == "Add" and _feeds_softmax(node.outputs[0])


def _signals(node: ir.Node, index: int) -> Iterator[str]:
    """Convolutions tell images from sound."""
    if node.op_type in ("STFT", "DFT") and index == 0:
        yield "audio"
    weight = node.inputs[1] if node.op_type == "Conv" and index == 0 else None
    if tables.size(weight, 3) is not None:
        yield "image"
    elif (
        tables.size(weight, 1) == 1 and tables.size(weight, 2) is not None and node.attributes.get_int("group", 1) == 1
    ):
        yield "audio"


def _makes_boolean(node: ir.Node) -> bool:
    return node.op_type == "Cast" and node.attributes.get_int("to", 1) == ir.DataType.BOOL


def _picked(node: ir.Node, index: int) -> int | None:
    """Rows of what ``node`` picks from by its input ``index``: 0 where they are not known; None where it picks not."""
    if index == 1 and node.op_type in ("Gather", "GatherElements", "GatherBlockQuantized"):
        axis = node.attributes.get_int("axis", node.attributes.get_int("gather_axis", 0))
        return tables.size(node.inputs[0], axis) or 0
    if index == 1 and node.op_type == "GatherND":
        return tables.size(node.inputs[0], 0) or 0
    if index == 0 and node.op_type == "OneHot":
        return round(_number(node.inputs[1]) or 0)
    table = ROWS.get((node.domain, node.op_type), {}).get(index)
    if table is None or table >= len(node.inputs):
        return None
    return tables.size(node.inputs[table], 0) or 0


def _number(value: ir.Value | None, operator: str = "") -> float | None:
    """The mean of a constant of at most `LONG` elements; None if it is none.

    Of whole numbers that are added the highest, of those that are subtracted the lowest.
    """
    constant = tensors.small_constant(value, LONG)
    if constant is None or not constant.size or constant.dtype.kind not in "iuf":
        return None
    end = {"Add": np.max, "Sub": np.min}.get(operator) if constant.dtype.kind in "iu" else None
    number = float((end or np.mean)(constant.astype(np.float64)))
    return number if np.isfinite(number) else None


def _feeds_softmax(value: ir.Value, depth: int = 4) -> bool:
    """Whether a sum goes into a softmax, through what moves it."""
    if depth == 0:
        return False
    moving = of_types(value.consumers(), *MOVES)
    return is_read_by(value, "Softmax") or any(_feeds_softmax(node.outputs[0], depth - 1) for node in moving)
