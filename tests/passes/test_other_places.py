"""Weights wherever exporters put them: each is lifted to a matrix on the right, exactly, and then quantized."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx import registry
from bct_onnx.graph.inventory import inventory
from bct_onnx.graph.tensors import Array
from bct_onnx.runtime.session import run, session
from tests.passes import small

normal = small.normal
X = normal(2, 5, 64)
W, V = normal(64, 128, scale=0.125), normal(128, 64, seed=1, scale=0.09)
EXPERTS = normal(4, 64, 128, scale=0.125), normal(4, 128, 64, seed=1, scale=0.09)
FRONT = "g (float[b,s,64] x) => (float[b,s,64] y)"

Model = tuple[str, dict[str, Array], dict[str, Array]]

PLACES: dict[str, Model] = {
    "einsum": (
        f"""{FRONT} {{ q = Einsum <equation = "abc,cde->abde"> (x, w)  r = Relu (q)
        y = Einsum <equation = "abde,dec->abc"> (r, v) }}""",
        {"w": W.reshape(64, 4, 32), "v": V.reshape(4, 32, 64)},
        {"x": X},
    ),
    "einsum of experts": (
        f"""{FRONT} {{ h = Einsum <equation = "bsk,ekn->bsen"> (x, w)  r = Relu (h)
        o = Einsum <equation = "bsen,enk->bsek"> (r, v)  y = ReduceMean <keepdims = 0> (o, axes) }}""",
        {"w": EXPERTS[0], "v": EXPERTS[1], "axes": np.array([2])},
        {"x": X},
    ),
    "convolutions of text": (
        f"""{FRONT} {{ t = Transpose <perm = [0, 2, 1]> (x)  h = Conv (t, w, b)  s = Sigmoid (h)  m = Mul (h, s)
        z = Conv (m, v)  y = Transpose <perm = [0, 2, 1]> (z) }}""",
        {"w": W.T.reshape(128, 64, 1).copy(), "v": V.T.reshape(64, 128, 1).copy(), "b": normal(128)},
        {"x": X},
    ),
    "convolutions of one row": (
        """g (float[b,64,1,s] x) => (float[b,64,1,s] y) { h = Conv (x, w)  r = Relu (h)  z = Conv (r, v)
        y = Add (z, x) }""",
        {"w": W.T.reshape(128, 64, 1, 1).copy(), "v": V.T.reshape(64, 128, 1, 1).copy()},
        {"x": normal(2, 64, 1, 5)},
    ),
    "on the left": (
        """g (float[b,64,s] x) => (float[b,64,s] y) { p = MatMul (w, x)  h = Add (p, b)  r = Relu (h)
        y = MatMul (v, r) }""",
        {"w": W.T.copy(), "v": V.T.copy(), "b": normal(128, 1)},
        {"x": normal(2, 64, 5)},
    ),
    "Gemm from the left": (
        "g (float[64,n] x) => (float[64,n] y) { h = Gemm (w, x)  r = Relu (h)  t = Transpose <perm = [1, 0]> (r)"
        "  y = Gemm <transB = 1> (v, t) }",
        {"w": W.T.copy(), "v": V.T.copy()},
        {"x": normal(64, 7)},
    ),
    "transA": (
        "g (float[64,n] x) => (float[n,64] y) { h = Gemm <transA = 1> (x, w, b)  r = Relu (h)  y = Gemm (r, v) }",
        {"w": W, "v": V, "b": normal(128)},
        {"x": normal(64, 7)},
    ),
    "leading ones, and through operators": (
        f"{FRONT} {{ h = MatMul (x, w)  r = Relu (h)  u = Unsqueeze (v, axes)  y = MatMul (r, u) }}",
        {"w": W[None], "v": V, "axes": np.array([0])},
        {"x": X},
    ),
    "experts with tokens of their own": (
        "g (float[4,s,64] x) => (float[4,s,64] y) { h = MatMul (x, w)  r = Relu (h)  y = MatMul (r, v) }",
        {"w": EXPERTS[0], "v": EXPERTS[1]},
        {"x": normal(4, 5, 64)},
    ),
    "experts that are chosen": (
        """g (float[s,64] x) => (float[s,64] y) { e = ArgMax <axis = -1, keepdims = 0> (x)  f = Mod (e, four)
        we = Gather (w, f)  u = Unsqueeze (x, axes)  h = MatMul (u, we)  r = Relu (h)  ve = Gather (v, f)
        o = MatMul (r, ve)  y = Squeeze (o, axes) }""",
        {"w": EXPERTS[0], "v": EXPERTS[1], "axes": np.array([1]), "four": np.array(4)},
        {"x": normal(5, 64)},
    ),
    "an operator that chooses experts itself": (
        """g (float[s,64] x, float[s,4] router) => (float[s,64] y) {
        y = com.microsoft.MoE <k = 2, activation_type = "relu"> (x, router, w, , v) }""",
        {"w": EXPERTS[1].transpose(0, 1, 2).copy(), "v": EXPERTS[0].copy()},
        {"x": normal(5, 64), "router": normal(5, 4, seed=9)},
    ),
    "in branches": (
        """g (float[b,s,64] x, bool choice) => (float[b,s,64] y) { a = MatMul (x, u)
        z = If (choice) <then_branch = th () => (float[b,s,64] o)
        { h = MatMul (a, w)  r = Relu (h)  o = MatMul (r, v) },
        else_branch = el () => (float[b,s,64] o2) { h2 = MatMul (a, w)  r2 = Tanh (h2)  o2 = MatMul (r2, v) }>
        y = Add (z, x) }""",
        {"u": normal(64, 64, seed=3, scale=0.125), "w": W, "v": V},
        {"x": X, "choice": np.array(True)},
    ),
    "in a loop": (
        """g (float[b,s,64] x) => (float[b,s,64] y) { y = Loop (three, yes, x)
        <body = l (int64 i, bool c, float[b,s,64] t)
        => (bool d, float[b,s,64] o) { d = Identity (c)  h = MatMul (t, w)  r = Relu (h)  m = MatMul (r, v)
        o = Add (m, t) }> }""",
        {"w": W, "v": V, "three": np.array(3), "yes": np.array(True)},
        {"x": X},
    ),
}


def _sqnr(got: Array, want: Array) -> float:
    assert got.shape == want.shape
    return float(10 * np.log10(np.square(want).sum() / max(np.square(got - want).sum(), 1e-30)))


def _outputs(model: ir.Model, feeds: Mapping[str, Array]) -> Array:
    (y,) = run(session(model), feeds)
    return y


def _through(preset: str, model: ir.Model) -> None:
    for one in registry.preset(preset):
        one(model)


@pytest.mark.parametrize("place", PLACES)
def test_weights_are_found_everywhere(place: str) -> None:
    text, arrays, feeds = PLACES[place]
    model = small.model(text, **arrays)
    model.opset_imports["com.microsoft"] = 1
    before, want = inventory(model), _outputs(model, feeds)
    lifted = model.clone()
    _through("lift", lifted)
    assert _sqnr(_outputs(lifted, feeds), want) > 100
    assert inventory(lifted).parameters == before.parameters, "nothing is counted twice, nothing is stored twice"
    _through("w4a8-nearest", model)
    assert _sqnr(_outputs(model, feeds), want) > 14
    assert not [one for one in inventory(model).weights if one.is_float and one.count >= 1024]


CONVNET = """g (float[b,64,h,w] x) => (float[b,128,h,w] y) {{ d = Conv <group = 64, {strides} kernel_shape = [3, 3],
    pads = [1, 1, 1, 1]> (x, depthwise)  r = Relu (d)  y = Conv (r, pointwise) }}"""


@pytest.mark.parametrize(("strides", "bits"), [("", "INT8"), ("strides = [3, 3],", "INT4")])
def test_pointwise_weights_of_convnets_get_eight_bits(strides: str, bits: str) -> None:
    depthwise, pointwise = normal(64, 1, 3, 3, scale=0.3), normal(128, 64, 1, 1, scale=0.125)
    model = small.model(CONVNET.format(strides=strides), depthwise=depthwise, pointwise=pointwise)
    _through("w4a8-nearest", model)
    (codes,) = [one for one in inventory(model).weights if one.count == pointwise.size]
    assert codes.dtype == bits
