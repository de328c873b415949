"""Activations with a bias or under a name of their own."""

from __future__ import annotations

import onnx_ir as ir

from bct_onnx.graph.contrib.lifting import Lift, Rule
from bct_onnx.graph.neighbours import attributes_of


def gelu(lift: Lift) -> list[ir.Value | None] | str:
    """``Gelu(x + bias)`` with erf."""
    return [lift.typed("Gelu", lift.plus(lift.given(0), lift.input(1), name="biased"))]


def fast_gelu(lift: Lift) -> list[ir.Value | None] | str:
    """``Gelu(x + bias)`` with tanh."""
    return [lift.typed("Gelu", lift.plus(lift.given(0), lift.input(1), name="biased"), approximate="tanh")]


def quick_gelu(lift: Lift) -> list[ir.Value | None] | str:
    """``x * sigmoid(alpha * x)``; with alpha = 1 that is SiLU."""
    x, alpha = lift.given(0), lift.number("alpha", 1.702)
    scaled = x
    if alpha != 1.0:
        scaled = lift.typed("Mul", x, lift.scalar("alpha", alpha, x.dtype or ir.DataType.FLOAT), name="scaled")
    return [lift.typed("Mul", x, lift.typed("Sigmoid", scaled))]


def bias_split_gelu(lift: Lift) -> list[ir.Value | None] | str:
    """``left * Gelu(right)`` of the two halves of ``x + bias``."""
    biased = lift.plus(lift.given(0), lift.input(1), name="biased")
    lift.op("Split", biased, axis=-1, num_outputs=2, outputs=2, name="halves")
    left, right = lift.made[-1].outputs
    left.type = right.type = biased.type
    return [lift.typed("Mul", left, lift.typed("Gelu", right))]


def bias_add(lift: Lift) -> list[ir.Value | None] | str:
    """``x + bias + skip``."""
    return [lift.plus(lift.plus(lift.given(0), lift.input(1), name="biased"), lift.input(2))]


def same_name(lift: Lift) -> list[ir.Value | None] | str:
    """An operator that ONNX has under the same name since, with the same inputs and attributes."""
    return [lift.typed(lift.node.op_type, *lift.node.inputs, **attributes_of(lift.node))]


RULES: dict[str, Rule] = {
    "BiasAdd": bias_add,
    "BiasGelu": gelu,
    "BiasSplitGelu": bias_split_gelu,
    "FastGelu": fast_gelu,
    "Gelu": gelu,
    "QuickGelu": quick_gelu,
    "Trilu": same_name,
}
