"""Balancing takes outliers out of what is added to the residual stream, and changes nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.forms import codes
from bct_onnx.forms.factors import plain
from bct_onnx.forms.linear import bias_of
from bct_onnx.forms.residual import is_residual
from bct_onnx.graph import tensors
from bct_onnx.runtime.statistics import KEY
from passes.balance import Balance
from passes.calibrate import Calibrate
from passes.quantize_intermediates import QuantizeIntermediates
from tests.passes.small import apply, close, model, normal, outputs

OUTLIERS = np.where(np.arange(64) == 7, 40, 1).astype(np.float32)
ARRAYS = {"table": normal(40, 64), "w": normal(64, 64, seed=3) * OUTLIERS, "b": normal(64, seed=4) * OUTLIERS}
LAYER = """g (int64[n,s] input_ids) => (float[n,s,64] y) {
    e = Gather (table, input_ids)  m = MatMul (e, w)  a = Add (m, b)  y = Add (e, a) }"""
BARE = """g (int64[n,s] input_ids) => (float[n,s,64] y) {
    e = Gather (table, input_ids)  m = MatMul (e, w)  y = Add (m, e) }"""
TRANSPOSED = LAYER.replace("m = MatMul (e, w)", "t = Transpose <perm = [1, 0]> (v)  m = MatMul (e, t)")
SHARED_BIAS = LAYER.replace("=> (float[n,s,64] y)", "=> (float[n,s,64] y, float[n,s,64] z)").replace(
    "}", "z = Mul (e, b) }"
)
MORE_USERS = LAYER.replace("=> (float[n,s,64] y)", "=> (float[n,s,64] y, float[n,s,64] z)").replace(
    "}", "z = Abs (a) }"
)
IDS = np.random.default_rng(0).integers(0, 40, (3, 7))


def balanced(text: str) -> ir.Model:
    target = model(text, **ARRAYS, v=ARRAYS["w"].T.copy())
    apply(Calibrate(), target)
    applied = apply(Balance(), target)
    assert len(applied.sites) == 1
    return target


@pytest.mark.parametrize(
    "text",
    [LAYER, BARE, TRANSPOSED, SHARED_BIAS, MORE_USERS],
    ids=["bias", "no bias", "transposed", "shared bias", "more users"],
)
def test_outputs_stay(text: str) -> None:
    source = model(text, **ARRAYS, v=ARRAYS["w"].T.copy())
    want = outputs(source, input_ids=IDS)["disabled"]
    target = balanced(text)
    assert [value.name for value in target.graph.outputs] == [value.name for value in source.graph.outputs]
    for values in outputs(target, input_ids=IDS).values():
        for got, expected in zip(values, want, strict=True):
            close(got, expected, 1e-5)


def test_outliers_are_moved_into_the_weight_and_its_bias() -> None:
    target = balanced(LAYER)
    (mul,) = (node for node in target.graph if node.op_type == "Mul")
    product, factors = mul.inputs
    assert product is not None and factors is not None
    by = tensors.array(factors)
    assert by.argmax() == 7 and by.max() > 10 and by.min() == 1
    np.testing.assert_allclose(tensors.array(target.graph.initializers["w"]), ARRAYS["w"] / by, rtol=1e-6)
    addition = product.producer()
    assert addition is not None and addition.inputs[1] is not None
    np.testing.assert_allclose(tensors.array(addition.inputs[1]), ARRAYS["b"] / by, rtol=1e-6)
    before, after = mul.outputs[0].meta[KEY].max_abs, product.meta[KEY].max_abs
    np.testing.assert_allclose(before, after * by, rtol=1e-6)
    assert after.max() == pytest.approx(1.5 * np.median(before))


def test_codes_stand_before_the_factors() -> None:
    target = balanced(LAYER)
    apply(QuantizeIntermediates(noise="static"), target)
    (mul,) = (node for node in target.graph if node.op_type == "Mul")
    found = codes.read(mul.outputs[0])
    assert found is not None and found.factors is mul.inputs[1] and found.codes.dtype == ir.DataType.UINT8
    assert found.step < 12 * float(np.median(np.abs(ARRAYS["w"]))) * 2 / 255 * 64**0.5


RESIDUAL = [
    ("h = Neg (x)  a = Exp (x)  y = Add (h, a)", True),
    ("h = Neg (x)  y = Add (h, x)", False),
    ("h = Neg (x)  y = Add (h, c)", False),
    ("h = Neg (x)  r = ReduceMax <keepdims = 1> (h, last)  y = Add (h, r)", False),
    ("h = Gather (t, i)  a = Gather (u, i)  y = Add (h, a)", False),
    ("h = Gather (t, i)  a = Gather (u, i)  e = Add (h, a)  p = Gather (t, j)  y = Add (e, p)", False),
    ("h = Gather (t, i)  a = Neg (h)  y = Add (h, a)", True),
    ("h = Neg (x)  a = Exp (x)  y = Sub (h, a)", False),
]


@pytest.mark.parametrize(
    ("body", "residual"),
    RESIDUAL,
    ids=["a sum", "an input", "a bias", "broadcast", "two tables", "three tables", "a table and more", "no sum"],
)
def test_what_a_residual_addition_is(body: str, residual: bool) -> None:
    text = f"g (float[n,s,8] x, int64[n,s] i, int64[n,s] j) => (float[n,s,8] y) <int64[1] last = {{-1}}> {{ {body} }}"
    target = model(text, c=normal(8), t=normal(9, 8), u=normal(9, 8, seed=1))
    assert is_residual(target.graph[-1]) == residual


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("m = MatMul (x, w)  y = Add (m, b)", True),
        ("m = MatMul (x, w)  y = Add (b, m)", True),
        ("m = MatMul (x, w)  y = Add (m, f)", False),
        ("m = MatMul (x, w)  y = Mul (m, b)", False),
        ("m = MatMul (x, w)  a = Neg (m)  y = Add (m, a)", False),
        ("m = MatMul (x, w)  y = Add (m, m)", False),
    ],
    ids=["right", "left", "a matrix", "no sum", "used twice", "itself"],
)
def test_biases(body: str, found: bool) -> None:
    arrays: dict[str, Any] = {"w": normal(8, 8), "b": normal(8), "f": normal(1, 8)}
    target = model(f"g (float[n,8] x) => (float[n,8] y) {{ {body} }}", **arrays)
    addition, bias = bias_of(target.graph[0])
    assert (bias is target.graph.initializers["b"], addition is target.graph[-1]) == (found, found)


@pytest.mark.parametrize(("body", "wanted"), [("Mul (h, c)", "h"), ("Mul (c, h)", "h"), ("Mul (h, x)", "y")])
def test_what_a_value_is_a_multiple_of(body: str, wanted: str) -> None:
    target = model(f"g (float[n,8] x) => (float[n,8] y) {{ h = Neg (x)  y = {body} }}", c=normal(8))
    assert plain(target.graph.outputs[0]).name == wanted
