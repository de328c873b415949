"""What the recognisers say of regions, beyond what the golden cases of the fuse passes show."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bct_onnx.graph import recognise, shapes
from bct_onnx.graph.recognise.pointwise import FUNCTIONS, SAMPLES, TOLERANCE
from bct_onnx.graph.recognise.region import around, element
from tests.graph import handmade

HEAD = '<ir_version: 10, opset_import: ["": 23]>'


def graph(text: str) -> ir.Graph:
    model = ir.from_onnx_text(f"{HEAD} {text}")
    shapes.infer(model)
    return model.graph


def node(parsed: ir.Graph, op_type: str) -> ir.Node:
    return next(one for one in parsed if one.op_type == op_type)


def values(parsed: ir.Graph) -> dict[str, ir.Value]:
    made = (value for one in parsed for value in one.outputs)
    return {value.name or "": value for value in (*parsed.inputs, *made)}


def test_a_region_ends_at_its_inputs_and_lists_nodes_in_order() -> None:
    parsed = graph(
        "g (float[n] x, float[n] z) => (float[n] y) { a = Neg (x)  b = Exp (a)  c = Add (b, z)  y = Mul (c, a) }"
    )
    named = values(parsed)
    region = recognise.between((named["a"], named["z"]), named["y"], element)
    assert region is not None
    assert region.spelling == ("Exp", "Add", "Mul")
    assert recognise.between((named["a"],), named["y"], element) is None, "z enters as well"
    assert recognise.between((named["x"], named["b"]), named["b"], element) is None, "x is not reached"


def test_a_region_stops_at_what_is_not_allowed_and_at_its_limit() -> None:
    parsed = graph("g (float[n] x) => (float[n] y) { a = Neg (x)  b = Relu (a)  y = Exp (b) }")
    named = values(parsed)
    assert recognise.between((named["x"],), named["y"], element) is None
    assert recognise.between((named["x"],), named["y"], lambda one: True, limit=2) is None
    assert recognise.between((named["x"],), named["y"], lambda one: True, limit=3) is not None


def test_values_that_others_read_escape() -> None:
    parsed = graph(
        "g (float[n] x) => (float[n] y, float[n] b) { a = Neg (x)  b = Exp (a)  c = Neg (a)  y = Mul (b, c) }"
    )
    named = values(parsed)
    region = recognise.between((named["x"],), named["y"], element)
    assert region is not None
    assert [value.name for value in region.escapes] == ["b"]


def test_an_initializer_that_a_caller_may_override_is_no_constant() -> None:
    parsed = graph("g (float[n] x, float half) => (float[n] y) <float half = {0.5}> { y = Mul (x, half) }")
    fixed = graph("g (float[n] x) => (float[n] y) <float half = {0.5}> { y = Mul (x, half) }")
    assert not recognise.is_constant(parsed.initializers["half"])
    assert recognise.is_constant(fixed.initializers["half"])


def test_regions_around_an_anchor_contain_it_and_grow() -> None:
    parsed = graph("g (float[n] x) => (float[n] y) { a = Neg (x)  b = Erf (a)  y = Mul (b, x) }")
    regions = list(around(node(parsed, "Erf"), element))
    assert [region.spelling for region in regions] == [("Erf",), ("Neg", "Erf"), ("Neg", "Erf", "Mul")]


def test_evaluation_is_in_float64_whatever_the_casts_say() -> None:
    parsed = graph(
        "g (float16[n] x) => (float16[n] y) { w = Cast <to = 1> (x)  e = Exp (w)  h = Cast <to = 10> (e)  y = Neg (h) }"
    )
    named = values(parsed)
    region = recognise.between((named["x"],), named["y"], element)
    assert region is not None
    x = np.linspace(-20, 20, 7)
    np.testing.assert_array_equal(recognise.evaluate(region, [x]), -np.exp(x))


def test_the_two_gelus_are_far_enough_apart_for_every_tolerance() -> None:
    results = [function(SAMPLES) for function in FUNCTIONS.values()]
    nearest = min(np.abs(one - other).max() for one, other in itertools.combinations(results, 2))
    assert nearest > 2 * max(TOLERANCE.values())


@given(error=st.floats(1e-3, 0.5) | st.floats(-0.5, -1e-3))
def test_a_gelu_with_a_wrong_root_is_refused(error: float) -> None:
    parsed = graph(
        f"""g (float[n] x) => (float[n] y)
        <float root = {{{1.4142135 * (1 + error):.7f}}}, float one = {{1}}, float half = {{0.5}}>
        {{ d = Div (x, root)  e = Erf (d)  f = Add (e, one)  m = Mul (x, f)  y = Mul (m, half) }}"""
    )
    found = recognise.pointwise(node(parsed, "Erf"))
    assert found is not None
    assert not found.exact
    assert found.deviation > 1e-4


@pytest.mark.parametrize("factors", list(itertools.permutations(["x", "f", "half"])), ids="".join)
@pytest.mark.parametrize("swap", [False, True])
def test_a_gelu_is_one_in_every_order_of_its_factors(factors: tuple[str, str, str], swap: bool) -> None:
    first, second, third = factors
    last = f"{third}, p" if swap else f"p, {third}"
    parsed = graph(
        f"""g (float[n] x) => (float[n] y) <float root = {{0.70710678}}, float one = {{1}}, float half = {{0.5}}>
        {{ d = Mul (root, x)  e = Erf (d)  f = Add (one, e)  p = Mul ({first}, {second})  y = Mul ({last}) }}"""
    )
    found = recognise.pointwise(node(parsed, "Erf"))
    assert found is not None
    assert (found.function, found.exact) == ("gelu", True)


@given(
    epsilon=st.sampled_from([1e-12, 1e-6, 1e-5, 1e-3]),
    weights=st.lists(st.just(0.0) | st.floats(2**-6, 4, width=32), min_size=3, max_size=9).filter(any),
    offset=st.floats(-100, 100, width=32),
)
def test_epsilon_scale_and_bias_are_read_off_exactly(epsilon: float, weights: list[float], offset: float) -> None:
    scale, bias = np.array(weights, np.float32), np.array(weights[::-1], np.float32) + np.float32(offset)
    size = len(weights)
    proto = handmade.model(
        f"""{HEAD} g (float[n,{size}] x) => (float[n,{size}] y)
        <int64[1] last = {{-1}}, float epsilon = {{{epsilon}}}>
        {{ m = ReduceMean (x, last)  c = Sub (x, m)  s = Mul (c, c)  v = ReduceMean (s, last)  e = Add (v, epsilon)
           r = Sqrt (e)  d = Div (c, r)  g = Mul (d, w)  y = Add (g, b) }}""",
        w=scale,
        b=bias,
    )
    parsed = ir.from_proto(proto).graph
    found = recognise.norm(node(parsed, "ReduceMean"), "LayerNormalization")
    assert found is not None
    assert found.exact, found
    assert found.epsilon == pytest.approx(epsilon, rel=1e-5)
    np.testing.assert_array_equal(found.scale.astype(np.float32), scale)
    np.testing.assert_array_equal(found.bias.astype(np.float32), bias)


def test_attention_names_its_parts() -> None:
    parsed = graph(
        """g (float[b,4,s,8] q, float[b,2,t,8] k, float[b,2,t,8] v, float[b,1,s,t] m) => (float[b,4,s,8] y)
        <int64[1] two = {2}, int64[5] more = {1, 1, 2, 1, 1}, int64[4] four = {0, 4, -1, 8}, float[1] c = {0.5}>
        { k1 = Unsqueeze (k, two)  k2 = Expand (k1, more)  k3 = Reshape (k2, four)
          v1 = Unsqueeze (v, two)  v2 = Expand (v1, more)  v3 = Reshape (v2, four)
          kt = Transpose <perm = [0, 1, 3, 2]> (k3)  kc = Mul (kt, c)  qc = Mul (q, c)  p = MatMul (qc, kc)
          a = Add (p, m)  w = Softmax <axis = -1> (a)  y = MatMul (w, v3) }"""
    )
    found = recognise.attention(node(parsed, "Softmax"))
    assert isinstance(found, recognise.Attention)
    assert (found.query.name, found.key.source.name, found.value.source.name) == ("q", "k", "v")
    assert (found.key.groups, found.value.groups, found.key.moved) == (2, 2, False)
    assert [mask.value.name for mask in found.masks] == ["m"]
    assert found.scale == pytest.approx(0.25)


def test_heads_repeated_in_the_wrong_order_are_no_groups() -> None:
    parsed = graph(
        """g (float[b,4,s,8] q, float[b,2,s,8] k, float[b,2,s,8] v) => (float[b,4,s,8] y)
        { k3 = Concat <axis = 1> (k, k)  v3 = Concat <axis = 1> (v, v)  kt = Transpose <perm = [0, 1, 3, 2]> (k3)
          p = MatMul (q, kt)  w = Softmax <axis = -1> (p)  y = MatMul (w, v3) }"""
    )
    found = recognise.attention(node(parsed, "Softmax"))
    assert isinstance(found, recognise.Attention)
    assert (found.key.source.name, found.key.groups) == ("k3", 1)


def test_a_transposition_that_fits_one_size_only_is_none() -> None:
    """The reshape gives the transposed keys for no sequence length but the one that equals the head size."""
    parsed = graph(
        """g (float[b,2,s,8] q, float[b,2,s,8] k, float[b,2,s,8] v) => (float[b,2,s,8] y) <int64[4] t = {0, 0, 8, -1}>
        { kt = Reshape (k, t)  p = MatMul (q, kt)  w = Softmax <axis = -1> (p)  y = MatMul (w, v) }"""
    )
    found = recognise.attention(node(parsed, "Softmax"))
    assert isinstance(found, recognise.Attention)
    assert found.key.source.name == "kt", "the keys are the reshaped ones, and need a transposition back"
    assert found.key.moved
