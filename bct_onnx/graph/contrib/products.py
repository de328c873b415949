"""Matrix products and convolutions with transpositions, factors and activations in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from bct_onnx.graph.contrib.lifting import Lift, Rule
from bct_onnx.graph.known import rank_of
from bct_onnx.graph.neighbours import provided

_PARAMETERS = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Elu": ("alpha",), "Selu": ("alpha", "gamma")}
_PARAMETERS |= {"Relu": (), "Tanh": (), "Sigmoid": (), "Softplus": (), "HardSwish": (), "Clip": ("min", "max")}
"""Activations that are fused into products and convolutions, and their parameters in order."""


def matmul(lift: Lift) -> list[ir.Value | None] | str:
    """``alpha * MatMul(Aᵀ, Bᵀ)``; ``transBatch`` moves the first axis behind the other batch axes first."""
    a, b = lift.given(0), lift.given(1)
    turned = []
    for value, side in ((a, "A"), (b, "B")):
        operand = _turned(lift, value, lift.number(f"trans{side}", 0) != 0, lift.number(f"transBatch{side}", 0) != 0)
        if operand is None:
            return f"the number of dimensions of '{value.name}' is not known, which is transposed in it"
        turned.append(operand)
    return [_scaled(lift, lift.typed("MatMul", *turned, name="product"), lift.number("alpha", 1.0))]


def gemm(lift: Lift) -> list[ir.Value | None] | str:
    """``activation(Gemm(A, B, C))``."""
    own, parameters = _own_attributes(lift.node), {}
    for name in ("alpha", "beta", "gamma"):
        if f"activation_{name}" in lift.node.attributes:
            parameters[name] = lift.number(f"activation_{name}", 0.0)
    return _activated(lift, lambda: lift.typed("Gemm", *lift.node.inputs, name="product", **own), parameters)


def gemm_fast_gelu(lift: Lift) -> list[ir.Value | None] | str:
    """``Gelu(MatMul(x, w) + bias)`` with tanh."""
    product = lift.typed("MatMul", lift.given(0), lift.given(1), name="product")
    return [lift.typed("Gelu", lift.plus(product, lift.input(2), name="biased"), approximate="tanh")]


def conv(lift: Lift) -> list[ir.Value | None] | str:
    """``activation(Conv(X, W, B) + Z)``."""
    own = _own_attributes(lift.node)
    attribute = lift.node.attributes.get("activation_params")
    numbers = [] if attribute is None else list(attribute.as_floats())
    names = _PARAMETERS.get(lift.node.attributes.get_string("activation", "") or "", ())
    inputs = provided(lift.node.inputs[:3])
    return _activated(
        lift,
        lambda: lift.plus(lift.typed("Conv", *inputs, name="conv", **own), lift.input(3), name="added"),
        dict(zip(names, numbers, strict=False)),
    )


def _own_attributes(node: ir.Node) -> dict[str, Any]:
    """Those of the product or convolution itself, without the activation's."""
    return {name: attr.value for name, attr in node.attributes.items() if not name.startswith("activation")}


def _turned(lift: Lift, value: ir.Value, last: bool, batch: bool) -> ir.Value | None:
    """``value`` with the transpositions of one side of a product; None where its rank is wanted and not known."""
    if not last and not batch:
        return value
    axes = rank_of(value)
    if axes is None:
        return None
    if axes < 2:
        return value
    perm = [*range(1, axes - 1), 0, axes - 1] if batch else list(range(axes))
    if last:
        perm[-2:] = perm[:-3:-1]
    return lift.typed("Transpose", value, perm=perm, name="turned")


def _scaled(lift: Lift, product: ir.Value, alpha: float) -> ir.Value:
    if alpha == 1.0:
        return product
    factor = lift.constant("alpha", np.array(alpha, (product.dtype or ir.DataType.FLOAT).numpy()))
    return lift.typed("Mul", product, factor, name="scaled")


def _activated(lift: Lift, make: Callable[[], ir.Value], parameters: dict[str, Any]) -> list[ir.Value | None] | str:
    kind = lift.node.attributes.get_string("activation", "") or ""
    if kind and kind not in _PARAMETERS:
        return f"its activation {kind} is not known"
    y = make()
    if kind == "Clip":
        bounds: list[ir.Value | None] = [None, None]
        for place, name in enumerate(("min", "max")):
            if name in parameters:
                bounds[place] = lift.scalar(name, parameters[name], y.dtype or ir.DataType.FLOAT)
        return [lift.typed("Clip", y, *bounds)]
    return [lift.typed(kind, y, **parameters) if kind else y]


RULES: dict[str, Rule] = {
    "FusedConv": conv,
    "FusedGemm": gemm,
    "FusedMatMul": matmul,
    "GemmFastGelu": gemm_fast_gelu,
    "TransposeMatMul": matmul,
}
