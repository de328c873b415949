"""Calibrated codes between the layers: which values, how many bits, which range."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.forms import codes
from bct_onnx.forms.gated import silu_of
from bct_onnx.forms.ranges import function_of, span_of
from bct_onnx.runtime.statistics import KEY, ChannelStatistics
from passes.calibrate import Calibrate
from passes.quantize_intermediates import QuantizeIntermediates
from tests.passes.small import LEVELS, apply, model, normal, ops, outputs

ARRAYS = {"table": normal(40, 16), "w": normal(16, 16, seed=1, scale=0.3), "m": np.abs(normal(16, seed=2))}
PRE_NORM = """g (int64[n,s] input_ids) => (float[n,s,16] y) {
    e = Gather (table, input_ids)
    h = LayerNormalization (e, m)  a = MatMul (h, w)  r = Add (e, a)
    i = LayerNormalization (r, m)  b = MatMul (i, w)  c = Gelu (b)  d = MatMul (c, w)  t = Add (r, d)
    y = LayerNormalization (t, m) }"""
POST_NORM = """g (int64[n,s] input_ids) => (float[n,s,16] y) {
    e = Gather (table, input_ids)  h = LayerNormalization (e, m)
    a = MatMul (h, w)  r = Add (h, a)  i = LayerNormalization (r, m)  y = Neg (i) }"""
IDS = np.random.default_rng(0).integers(0, 40, (3, 7))
BITS = {codes.TYPES[bits]: bits for bits in codes.TYPES}


def bits(target: ir.Model) -> dict[str, int]:
    """Bits by the name of what is quantized."""
    pairs = [(node.inputs[0], node.outputs[0].dtype) for node in target.graph if node.op_type == "QuantizeLinear"]
    return {
        (value.name or "").removesuffix(".float"): BITS[kind]
        for value, kind in pairs
        if value is not None and kind is not None
    }


def quantized(text: str, one: QuantizeIntermediates | None = None) -> ir.Model:
    target = model(text, **ARRAYS)
    apply(Calibrate(samples=16), target)
    apply(one or QuantizeIntermediates(), target)
    return target


def test_a_stream_begins_with_16_bits_and_sums_have_none_of_their_own() -> None:
    assert bits(quantized(PRE_NORM)) == {"e": 16, "h": 8, "a": 8, "i": 8, "b": 8, "c": 8, "d": 8}


def test_post_norm() -> None:
    assert bits(quantized(POST_NORM)) == {"e": 16, "h": 8, "a": 8, "i": 8}


@pytest.mark.parametrize(
    ("around", "wanted"),
    [(("gelu",), {"b", "c"}), (("norm",), {"e", "h", "i"}), (("gelu", "residual"), {"b", "c", "e", "a", "d"})],
)
def test_around_some_operators_only(around: tuple[Any, ...], wanted: set[str]) -> None:
    assert set(bits(quantized(PRE_NORM, QuantizeIntermediates(around=around)))) == wanted


@pytest.mark.parametrize("scale", ["real", "shift"])
@pytest.mark.parametrize("text", [PRE_NORM, POST_NORM], ids=["pre-norm", "post-norm"])
def test_outputs_move_by_little(text: str, scale: Any) -> None:
    want = outputs(model(text, **ARRAYS), input_ids=IDS)["disabled"][0]
    for level, (got,) in outputs(quantized(text, QuantizeIntermediates(scale)), input_ids=IDS).items():
        assert level in LEVELS
        sqnr = 10 * np.log10(np.square(want).mean() / np.square(want - got).mean())
        assert sqnr > (30 if scale == "real" else 25)


def test_it_quantizes_nothing_twice() -> None:
    target = quantized(PRE_NORM)
    before = ops(target)
    assert not apply(QuantizeIntermediates(), target).sites and ops(target) == before


def spanned(body: str, low: float, high: float) -> codes.Range | None:
    """The range of h, calibrated from ``low`` to ``high``."""
    target = model(f"g (float[n,8] x) => (float[n,8] y) {{ h = Neg (x)  {body} }}")
    value = target.graph[0].outputs[0]
    value.meta[KEY] = ChannelStatistics(np.array([low]), np.array([high]), np.array([1.0]), 1)
    return span_of(value)


@pytest.mark.parametrize(
    ("body", "calibrated", "span"),
    [
        ("y = Exp (h)", (-30, 30), (-30, 30)),
        ("y = Exp (h)", (2, 30), (0, 30)),
        ("y = Exp (h)", (-30, -2), (-30, 0)),
        ("y = Gelu (h)", (-30, 30), (-4, 30)),
        ("y = Gelu (h)", (-3, 30), (-3, 30)),
        ("y = Gelu (h)", (-30, -20), (-23.25, 0)),
        ("a = Sigmoid (h)  y = Mul (h, a)", (-30, -9), (-17.72, 0)),
        ("y = Tanh (h)", (-30, 30), (-4, 4)),
        ("y = Sigmoid (h)", (-30, 2), (-8, 2)),
        ("a = Sigmoid (h)  y = Mul (h, a)", (-30, 30), (-10, 30)),
        ("a = Sigmoid (h)  y = Mul (a, h)", (-30, 30), (-10, 30)),
        ("a = Gelu (h)  y = Add (h, a)", (-30, 30), (-30, 30)),
    ],
)
def test_ranges(body: str, calibrated: tuple[float, float], span: tuple[float, float]) -> None:
    assert spanned(body, *calibrated) == codes.Range(*span)


def test_ranges_that_are_not_known() -> None:
    assert spanned("y = Exp (h)", -np.inf, 1) is None and spanned("y = Exp (h)", np.nan, 1) is None
    target = model("g (float[n,8] x) => (float[n,8] y) { y = Neg (x) }")
    assert span_of(target.graph[0].outputs[0]) is None


@pytest.mark.parametrize(("op", "span"), [("Softmax", (0, 1)), ("Tanh", (-1, 127 / 128))])
def test_ranges_that_are_known_without_statistics(op: str, span: tuple[float, float]) -> None:
    target = model(f"g (float[n,8] x) => (float[n,8] y) {{ y = {op} (x) }}")
    assert span_of(target.graph[0].outputs[0]) == codes.Range(*span)


@pytest.mark.parametrize(("low", "taken"), [(-300.0, True), (-65504.0, False), (-3.4e38, False)])
def test_scores_with_masked_ones_among_them_stay_float(low: float, taken: bool) -> None:
    """A softmax that is part of no Attention: a single masked score would take all steps of the codes."""
    target = model("g (float[n,8] x) => (float[n,8] z) { h = Neg (x)  y = Softmax (h)  z = Neg (y) }")
    scores = target.graph[0].outputs[0]
    scores.meta[KEY] = ChannelStatistics(np.array([low]), np.array([20.0]), np.array([1e4]), 1)
    applied = apply(QuantizeIntermediates(), target)
    assert [site.name for site in applied.sites] == (["h", "y"] if taken else [])
    assert taken or "masked" in applied.declined[0].reason


def test_silu_is_both_halves() -> None:
    target = model("g (float[n,8] x) => (float[n,8] y) { a = Sigmoid (x)  y = Mul (x, a) }")
    sigmoid, product = target.graph
    assert silu_of(sigmoid) is product and function_of(sigmoid) == function_of(product) == "Silu"
    other = model("g (float[n,8] x, float[n,8] z) => (float[n,8] y) { a = Sigmoid (x)  y = Mul (z, a) }")
    assert silu_of(other.graph[0]) is None and [function_of(node) for node in other.graph] == ["Sigmoid", "Mul"]


def test_tanh_uses_the_codes_of_the_runtime() -> None:
    scale, zero = codes.Range(-1.0, 127 / 128).uint8()
    assert (float(scale), zero) == (1 / 128, 128)
