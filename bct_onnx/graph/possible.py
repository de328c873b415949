"""The numbers a value may hold, where these are few: how a pass proves that an attention mask is one.

A mask is 0 where a token may be seen and a very negative number where not; a bias such as ALiBi or the relative
positions of T5 looks the same from outside, but holds anything. Here the operators that masks are made of are run on
sets of numbers: what comes out holds every number that the model can compute, and maybe some that it never does.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable

import numpy as np
import onnx_ir as ir

from bct_onnx.graph import operators, tensors
from bct_onnx.graph.known import dtypes_of
from bct_onnx.graph.neighbours import operand, producer, provided
from bct_onnx.graph.tensors import Array

Values = frozenset[float]

MASKED = -1e4
"""From here on down, what is added to a score leaves nothing of its probability: e to this power is 0 in any float."""

_CONSTANT = 16
"""A constant of more distinct numbers is no mask."""

_CAP = 64
"""Larger sets are given up."""

_DEPTH = 100
"""Longer chains of operators are given up: residual streams, not masks."""

_EXACT = 2.0**53
"""Integers from here on are given up: a float cannot tell them apart."""

_CHUNK = 1 << 16


def possible_values(value: ir.Value) -> Values | None:
    """Every number that ``value`` may hold in any run of the model; None if they may be many, or NaN, or unknown.

    Inputs of a graph are known if they are boolean, or integers with ``mask`` in their name: these are taken to hold
    0 and 1 alone, as `transformers` defines an attention mask. Shapes and positions play no part.

    >>> model = ir.from_onnx_text('''<ir_version: 10, opset_import: ["": 23]>
    ...     g (int64[b,s] attention_mask) => (float[b,1,s] y)
    ...     <int64[1] axis = {1}, float[1] one = {1.0}, float[1] low = {-10000.0}>
    ...     { u = Unsqueeze (attention_mask, axis)  f = Cast <to = 1> (u)  n = Sub (one, f)  y = Mul (n, low) }''')
    >>> sorted(possible_values(model.graph.outputs[0]))
    [-10000.0, 0.0]
    """
    return _Reader().read(value)


def is_mask(value: ir.Value) -> bool:
    """Whether ``value``, as the mask of an attention, only ever lets a score be or takes it out.

    That holds for a boolean, and for numbers that are all 0 or at most `MASKED` (-inf included).
    """
    if value.dtype == ir.DataType.BOOL:
        return True
    values = possible_values(value)
    return values is not None and all(number == 0 or number <= MASKED for number in values)


class _Reader:
    """One look at a value and at what it is computed from; each is looked at once."""

    def __init__(self) -> None:
        self._known: dict[ir.Value, Values | None] = {}
        self._depth = 0

    def read(self, value: ir.Value | None) -> Values | None:
        if value is None:
            return None
        if value not in self._known:
            self._depth += 1
            self._known[value] = self._computed(value) if self._depth <= _DEPTH else None
            self._depth -= 1
        return self._known[value]

    def _computed(self, value: ir.Value) -> Values | None:
        node = value.producer()
        if value.is_graph_input():
            return _input(value)
        if node is None or node.op_type == "Constant":
            tensor = ir.convenience.get_const_tensor(value)
            if tensor is None:
                return None
            return _distinct(tensor)
        rule = _RULES.get(node.op_type) if node.domain == "" else None
        if rule is None:
            return None
        return rule(self, node)


def _input(value: ir.Value) -> Values | None:
    named = value.dtype is not None and value.dtype.is_integer() and "mask" in (value.name or "").lower()
    if named or value.dtype == ir.DataType.BOOL:
        return _BOOLEAN
    return None


def _distinct(tensor: ir.TensorProtocol) -> Values | None:
    """The numbers in a constant; one of many is not read to its end."""
    if tensor.dtype not in _KINDS:
        return None
    distinct: Values | None = frozenset()
    flat = tensor.numpy().reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        distinct = _union([distinct, _numbers(flat[start : start + _CHUNK])])
        if distinct is None or len(distinct) > _CONSTANT:
            return None
    tensors.release(tensor)
    return distinct


def _numbers(data: Array) -> Values | None:
    numbers = np.unique(data.astype(np.float64)) + 0.0  # of two zeros one
    big = data.dtype.kind in "iu" and np.abs(numbers).max(initial=0) >= _EXACT
    if len(numbers) > _CAP or np.isnan(numbers).any() or big:
        return None
    return frozenset(numbers.tolist())


def _union(parts: Iterable[Values | None]) -> Values | None:
    known = list(parts)
    union = frozenset[float]().union(*provided(known))
    if None in known or len(union) > _CAP:
        return None
    return union


def _moved(reader: _Reader, node: ir.Node) -> Values | None:
    return reader.read(node.inputs[0])


def _boolean(reader: _Reader, node: ir.Node) -> Values | None:
    return _BOOLEAN


def _gathered(reader: _Reader, node: ir.Node) -> Values | None:
    return _union(map(reader.read, node.inputs))


def _triangle(reader: _Reader, node: ir.Node) -> Values | None:
    return _union([reader.read(node.inputs[0]), frozenset([0.0])])


def _padded(reader: _Reader, node: ir.Node) -> Values | None:
    data = reader.read(node.inputs[0])
    if node.attributes.get_string("mode", "constant") != "constant":
        return data
    fill = operand(node, 2)
    if fill is None:
        return _union([data, frozenset([0.0])])
    return _union([data, reader.read(fill)])


def _scattered(reader: _Reader, node: ir.Node) -> Values | None:
    if node.attributes.get_string("reduction", "none") != "none":
        return None
    return _union([reader.read(node.inputs[0]), reader.read(node.inputs[2])])


def _filled(reader: _Reader, node: ir.Node) -> Values | None:
    if "value" in node.attributes:
        return _distinct(node.attributes["value"].as_tensor())
    return frozenset([0.0])


def _chosen(reader: _Reader, node: ir.Node) -> Values | None:
    condition, yes, no = node.inputs
    return _union([_given(reader, yes, condition, True), _given(reader, no, condition, False)])


def _given(reader: _Reader, value: ir.Value | None, condition: ir.Value | None, truth: bool) -> Values | None:
    """What ``value`` may hold where ``condition`` is ``truth``: ``Where(Cast(x), low, x)`` lets zeros of x through."""
    values = reader.read(value)
    test = producer(condition)
    if values is None or test is None or test.domain:
        return values
    if test.op_type == "Not":
        return _given(reader, value, test.inputs[0], not truth)
    if test.op_type == "Cast" and test.inputs[0] is not value:
        kept = test.inputs[0] is not None and test.inputs[0].dtype == ir.DataType.BOOL
        if kept:
            return _given(reader, value, test.inputs[0], truth)
        return values
    if test.op_type == "Cast":
        return frozenset(number for number in values if (number != 0) == truth)
    if test.op_type == "Equal" and value in test.inputs:
        other = reader.read(test.inputs[1 - test.inputs.index(value)])
        if other is not None and len(other) == 1:
            return frozenset(number for number in values if (number in other) == truth)
    return values


def _cast(reader: _Reader, node: ir.Node) -> Values | None:
    values, to = reader.read(node.inputs[0]), ir.DataType(node.attributes["to"].as_int())
    if values is None or to not in _KINDS:
        return None
    if to.is_integer() and not all(math.isfinite(number) and to.min <= number <= to.max for number in values):
        return None  # undefined
    return _in_type(values, to)


def _in_type(values: Iterable[float], dtype: ir.DataType) -> Values | None:
    with np.errstate(all="ignore"):
        return _numbers(np.array(list(values), np.float64).astype(dtype.numpy()))


def _elementwise(function: Callable[..., Array]) -> Callable[[_Reader, ir.Node], Values | None]:
    """Every combination of the operands, computed in their type."""

    def compute(reader: _Reader, node: ir.Node) -> Values | None:
        operands = list(map(reader.read, node.inputs))
        known = provided(operands)
        types = provided(dtypes_of((*node.inputs, *node.outputs)))
        dtype = next(iter(types), None)  # operands and result have the same
        if len(known) < len(operands) or dtype not in _KINDS or math.prod(map(len, known)) > _CAP:
            return None
        rows = np.array(list(itertools.product(*known)), np.float64).reshape(-1, len(known)).astype(dtype.numpy())
        with np.errstate(all="ignore"):
            return _numbers(functools.reduce(function, rows.T) if len(known) > 1 else function(rows[:, 0]))

    return compute


_BOOLEAN: Values = frozenset([0.0, 1.0])
_INTEGERS = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
_KINDS = frozenset(ir.DataType[name] for name in ("BOOL", "FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", *_INTEGERS))

_RULES: dict[str, Callable[[_Reader, ir.Node], Values | None]] = {
    **dict.fromkeys(operators.named(*operators.MOVES), _moved),
    **dict.fromkeys(operators.named("test"), _boolean),
    "Add": _elementwise(np.add),
    "Cast": _cast,
    "Concat": _gathered,
    "ConstantOfShape": _filled,
    "Max": _elementwise(np.maximum),
    "Min": _elementwise(np.minimum),
    "Mul": _elementwise(np.multiply),
    "Neg": _elementwise(np.negative),
    "Pad": _padded,
    "ScatterElements": _scattered,
    "ScatterND": _scattered,
    "Sub": _elementwise(np.subtract),
    "Trilu": _triangle,
    "Where": _chosen,
}
