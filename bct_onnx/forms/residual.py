"""Sums into the residual stream, of floats, and of integers in 32 bits.

sum = Add(a, b)                                                            two computed values of one shape
sum = Cast(IntegerAdd(a, a_scale, a_zero, b, b_scale, b_zero, step)) * step     codes, scales of one or per channel
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bct_onnx.forms import codes
from bct_onnx.forms.factors import plain
from bct_onnx.graph import functions
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.known import rank_of
from bct_onnx.graph.names import places_of
from bct_onnx.graph.neighbours import inputs_of, producer, producers
from bct_onnx.runtime.statistics import measured

STREAM_BITS = 22
"""Bits (and a sign) that the largest calibrated value of a residual stream takes at most; two more are left to the
rest."""


@dataclasses.dataclass(frozen=True)
class Side:
    """One side of a sum of integers: ``(codes - zero_point) * scale``.

    Attributes:
        codes: uint8, int16 or int32.
        scale: float32, rank 0, or one per channel [K].
        zero_point: Constant of the codes' type, rank 0.
    """

    codes: ir.Value
    scale: ir.Value
    zero_point: ir.Value


def write(model: ir.Model, edit: Edit, sides: Sequence[Side], step: float, like: ir.Value) -> ir.Value:
    """Add integers in steps of one size; return the sum as floats of the type and shape of ``like``."""
    inputs: list[ir.Value] = []
    for side in sides:
        inputs += [side.codes, side.scale, side.zero_point]
    scale = edit.scalar("scale", step, ir.DataType.FLOAT)
    total = edit.op("IntegerAdd", *inputs, scale, domain=functions.use(model, "IntegerAdd"), name="sum")
    total.dtype, total.shape = ir.DataType.INT32, like.shape
    return codes.give(edit, total, scale, None, like)


def read(node: ir.Node) -> tuple[Side, Side]:
    """Both sides of an ``IntegerAdd`` that `write` has written."""
    a, a_scale, a_zero, b, b_scale, b_zero, _ = node.inputs
    assert a is not None and a_scale is not None and a_zero is not None
    assert b is not None and b_scale is not None and b_zero is not None
    return Side(a, a_scale, a_zero), Side(b, b_scale, b_zero)


def is_residual(node: ir.Node) -> bool:
    """Whether ``node`` adds two computed values of the same shape that are not both looked up in tables."""
    if node.op_type != "Add" or node.domain:
        return False
    if all(map(_is_looked_up, node.inputs)):
        return False
    left, right = node.inputs
    if left is None or right is None or len(producers((left, right))) < 2:
        return False
    return (rank_of(left) or 0) > 1 and left.shape == right.shape


def _is_looked_up(value: ir.Value | None) -> bool:
    """Whether ``value`` is rows of a table, or a sum of such."""
    node = producer(value)
    if node is None:
        return False
    if node.op_type in ("Add", "Cast") and not node.domain:
        return all(map(_is_looked_up, node.inputs))
    if node.op_type == "Where" and not node.domain:  # a table in parts
        return all(map(_is_looked_up, node.inputs[1:]))
    return node.op_type.startswith("Gather")


def common_steps(additions: Sequence[ir.Node]) -> dict[ir.Node, float]:
    """The step of the sum of each of ``additions``, a power of two; 0 where no range is known.

    Additions that feed each other, in graph order, are one stream and have one step.
    """
    stream = places_of(additions)
    for node in additions:  # the stream of a sum is that of the sums it continues
        for value in inputs_of([node]):
            before = plain(value).producer()
            if before is None or before not in stream:
                continue
            joined = stream[before]
            for member, number in stream.items():
                if number == joined:
                    stream[member] = stream[node]
    tops = dict.fromkeys(stream.values(), 0.0)
    for node, index in stream.items():
        tops[index] = max(tops[index], _largest(node.outputs[0]))
    return {node: _power_of_two(tops[index] / 2**STREAM_BITS) for node, index in stream.items()}


def _largest(value: ir.Value) -> float:
    """The largest calibrated magnitude; 0 where none is known."""
    statistics = measured(value)
    if statistics is None:
        return 0.0
    largest = float(statistics.max_abs.max())
    if np.isfinite(largest):
        return largest
    return 0.0


def _power_of_two(step: float) -> float:
    if step:
        return 2.0 ** math.ceil(math.log2(step))
    return 0.0
