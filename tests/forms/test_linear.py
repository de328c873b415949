"""A linear layer is the same matrix [K, N] wherever it stands and whichever way round."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bct_onnx.forms.linear import Linear, linears
from bct_onnx.graph.edit import Edit
from passes.calibrate import Calibrate
from tests.passes.small import apply, close, matmul, model, normal, outputs

PLACES = {
    "MatMul": ("y = MatMul (x, w)", False),
    "Transpose": ("t = Transpose <perm = [1, 0]> (w)  y = MatMul (x, t)", True),
    "Transpose without perm": ("t = Transpose (w)  y = MatMul (x, t)", True),
    "Gemm": ("y = Gemm (x, w, b)", False),
    "Gemm transB": ("y = Gemm <transB = 1> (x, w)", True),
    "Gemm of a Transpose": ("t = Transpose <perm = [1, 0]> (w)  y = Gemm <alpha = 0.5, beta = 2.0> (x, t, b)", True),
    "Gemm transB of a Transpose": ("t = Transpose (w)  y = Gemm <transB = 1, beta = 3.0> (x, t, b)", False),
}
places = pytest.mark.parametrize(("text", "transposed"), PLACES.values(), ids=PLACES)


def layer(text: str, transposed: bool, k: int = 6, n: int = 5) -> tuple[ir.Model, Linear]:
    weight = normal(k, n)
    arrays = {"w": np.ascontiguousarray(weight.T) if transposed else weight}
    if " b)" in text:
        arrays["b"] = normal(n, seed=1)
    target = model(f"g (float[m,{k}] x) => (float[m,{n}] y) {{ {text} }}", **arrays)
    linear = Linear.of(target.graph[-1])
    assert linear is not None
    return target, linear


@places
@given(k=st.integers(1, 9), n=st.integers(1, 9))
@settings(max_examples=10, deadline=None)
def test_the_matrix_is_k_by_n(text: str, transposed: bool, k: int, n: int) -> None:
    target, linear = layer(text, transposed, k, n)
    assert not linear.refusal and linear.transposed == transposed and not linear.is_shared
    assert linear.shape == (k, n)
    np.testing.assert_array_equal(linear.matrix(), normal(k, n))
    assert [other.node for other in linears(linear.weight)] == [target.graph[-1]]


@places
def test_another_product_takes_the_place_of_the_layer(text: str, transposed: bool) -> None:
    target, linear = layer(text, transposed)
    before = outputs(target, x=normal(3, 6, seed=2))["disabled"][0]
    edit = Edit(linear.node)
    linear.replace(edit, edit.op("MatMul", linear.node.inputs[0], edit.constant("again", normal(6, 5))))
    assert "Gemm" not in [node.op_type for node in target.graph]
    for result in outputs(target, x=normal(3, 6, seed=2)).values():
        close(result[0], before, 1e-6)


@places
@pytest.mark.parametrize("axis", [0, 1])
def test_factors_go_along_an_axis_of_the_matrix(text: str, transposed: bool, axis: int) -> None:
    _, linear = layer(text, transposed)
    factors = 1 + np.abs(normal(linear.shape[axis], seed=3))
    linear.scale(factors, axis)
    again = Linear.of(linear.node)
    assert again is not None
    np.testing.assert_array_equal(again.matrix(), normal(6, 5) * (factors[:, None] if axis == 0 else factors))


REFUSED = {
    "multiplied from the left": "y = MatMul (w, x)",
    "Gemm with transA": "t = Transpose (x)  y = Gemm <transA = 1> (t, w)",
    "tied": "e = Gather (w, ids)  z = Gemm (e, w)  y = MatMul (x, w)",
}


@pytest.mark.parametrize(("reason", "text"), REFUSED.items(), ids=REFUSED)
def test_what_is_no_weight_of_its_own_says_why(reason: str, text: str) -> None:
    target = model(f"g (float[4,4] x, int64[2] ids) => (float[4,4] y) {{ {text} }}", w=normal(4, 4))
    linear = Linear.of(target.graph[-1])
    assert linear is not None and linear.refusal.startswith(reason) and linear.tied == (reason == "tied")


def test_nothing_else_is_a_linear_layer() -> None:
    text = """g (float[m,4] x, float[4,4] v) => (float[m,4] y) {
        a = MatMul (x, v)  b = Add (a, w)  t = Transpose <perm = [0, 1]> (w)  y = MatMul (b, t) }"""
    assert [Linear.of(node) for node in model(text, w=normal(4, 4)).graph] == [None] * 4


def test_a_weight_that_two_layers_read_is_shared() -> None:
    text = "g (float[m,4] x) => (float[m,4] y) { a = MatMul (x, w)  t = Transpose (w)  y = MatMul (a, t) }"
    first, _, second = model(text, w=normal(4, 4)).graph
    straight, turned = Linear.of(first), Linear.of(second)
    assert straight is not None and turned is not None
    assert straight.is_shared and turned.is_shared and straight.key != turned.key
    assert [linear.key for linear in linears(straight.weight)] == [straight.key, turned.key]


def test_statistics_are_those_of_what_goes_in() -> None:
    target = model("g (float[m,8] x) => (float[m,4] y) { h = Relu (x)  y = MatMul (h, w) }", w=normal(8, 4))
    linear = Linear.of(target.graph[-1])
    assert linear is not None and linear.statistics is None and linear.importance() is None
    apply(Calibrate(), target)
    measured = Linear.of(target.graph[-1])
    assert measured is not None and measured.statistics is not None
    weighed = measured.importance()
    assert weighed is not None and weighed.shape == (8,)
    plain = Linear.of(matmul(8, 4).graph[0])
    assert plain is not None and plain.statistics is None
