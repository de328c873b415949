"""Residual sums and normalizations of codes in the runtime's float operators: at most one code off, nothing rounded."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.balance import Balance
from passes.calibrate import Calibrate
from passes.integer_add import IntegerAdd
from passes.integer_layer_norm import IntegerLayerNorm
from passes.lower_codes import LowerCodes
from passes.lower_norms import LowerNorms
from passes.quantize_activations import QuantizeActivations
from passes.quantize_intermediates import QuantizeIntermediates
from passes.quantize_weights import QuantizeWeights
from tests.passes.small import apply, everywhere, model, normal, ops


@pytest.mark.parametrize("kind", ["uint8", "int16", "int32"])
@pytest.mark.parametrize("op", ["LayerNormalization", "RMSNormalization"])
def test_normalizations(op: str, kind: str) -> None:
    """The float operator gives the codes nearest to the exact result; the portable form stays if it is asked for."""
    low, high, zero = {"uint8": (0, 256, 100), "int16": (-30000, 30000, 0), "int32": (-(10**6), 10**6, 0)}[kind]
    text = f"""g ({kind}[n,32] q) => (uint8[n,32] p)
        <float s = {{0.002}}, {kind} z = {{{zero}}}, float t = {{0.02}}, uint8 u = {{120}}> {{
        d = DequantizeLinear (q, s{", z" if zero else ""})  g = {op} (d, m{", b" if op[0] == "L" else ""})
        p = QuantizeLinear (g, t, u) }}"""
    gamma, beta = normal(32, seed=1), normal(32, seed=2)
    q = np.random.default_rng(0).integers(low, high, (7, 32)).astype(kind)
    target = model(text, m=gamma, b=beta) if op[0] == "L" else model(text, m=gamma)
    assert len(apply(IntegerLayerNorm(), target).sites) == 1
    assert not apply(LowerNorms(form="integer"), target).sites
    (portable,) = everywhere(target, q=q)
    assert len(apply(LowerNorms(), target).sites) == 1
    assert ops(target) == {"DequantizeLinear": 1, op: 1, "QuantizeLinear": 1}
    (got,) = everywhere(target, q=q)
    x = (q.astype(np.float64) - zero) * 0.002
    x -= x.mean(-1, keepdims=True) if op[0] == "L" else 0
    exact = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * gamma + (beta if op[0] == "L" else 0)
    assert np.abs(got - np.clip(exact / 0.02 + 120, 0, 255)).max() < 0.501
    assert np.abs(got.astype(int) - portable).max() <= 1


def summed(*more: str) -> ir.Model:
    """A product whose outlier channel is balanced, and a residual sum of it."""
    target = model(
        """g (float[n,s,64] x) => (float[n,s,64] y) {
            h = Abs (x)  m = MatMul (h, w)  a = Add (m, b)  r = Add (a, h)  y = Neg (r) }""",
        w=normal(64, 64, seed=1, scale=0.2) * np.where(np.arange(64) == 7, 30, 1).astype(np.float32),
        b=normal(64, seed=3),
    )
    given = (Calibrate(samples=32), Balance(), QuantizeWeights(), QuantizeActivations("static", noise="static"))
    for one in (
        *given,
        QuantizeIntermediates(noise="static", around=more or ("residual",)),
        IntegerAdd(),
        IntegerLayerNorm(),
    ):
        apply(one, target)
    return target


def test_a_product_is_added_as_it_is() -> None:
    """Its codes were made for the sum alone; the factor of its channel costs nothing at run time."""
    target = summed()
    assert ops(target)["IntegerAdd"] == 1
    apply(LowerCodes(), target)
    portable = everywhere(target, x=(x := normal(2, 5, 64, seed=9)))[0]
    assert len(apply(LowerNorms(), target).sites) == 1
    found = ops(target)
    assert "IntegerAdd" not in found and found["Add"] == 1 and found["QuantizeLinear"] == 1
    product = next(node for node in target.graph if node.op_type == "MatMulIntegerToFloat")
    made = [value.producer() for value in product.inputs if value is not None]
    assert [node.op_type for node in made if node is not None] == ["QuantizeLinear", "DecodeInt8", "Mul", "Mul"]
    (got,) = everywhere(target, x=x)
    noise = np.square(got - portable).sum() / np.square(portable).sum()
    assert 0 < noise < 1e-3


def test_rows_do_not_depend_on_others() -> None:
    target = summed()
    for one in (LowerCodes(), LowerNorms()):
        apply(one, target)
    x = normal(3, 7, 64, seed=9)
    (whole,) = everywhere(target, x=x)
    np.testing.assert_array_equal(everywhere(target, x=x[1:2, 2:4])[0], whole[1:2, 2:4])
