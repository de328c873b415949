"""What folding leaves alone, and what it computes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bct_onnx.graph.tensors import Array
from bct_onnx.runtime.session import run, session
from passes.clean_up import CleanUp
from passes.fold_constants import FoldConstants
from passes.normalize import Normalize

LEGACY_ATTENTION = """<ir_version: 8, opset_import: ["" : 17]>
g (float[batch,sequence,8] x, float[batch,past,8] p) => (float[batch,any,2,4] y) {
    joined = Concat <axis = 1> (p, x)
    s0 = Shape (joined)
    i0 = Constant <value_int = 0> ()
    b = Gather (s0, i0)
    s1 = Shape (joined)
    i1 = Constant <value_int = 1> ()
    t = Gather (s1, i1)
    heads = Constant <value_int = 2> ()
    size = Constant <value_int = 4> ()
    axes = Constant <value_ints = [0]> ()
    b1 = Unsqueeze (b, axes)
    t1 = Unsqueeze (t, axes)
    h1 = Unsqueeze (heads, axes)
    d1 = Unsqueeze (size, axes)
    shape = Concat <axis = 0> (b1, t1, h1, d1)
    split = Reshape (joined, shape)
    s2 = Shape (split)
    minus = Constant <value_ints = [-1]> ()
    far = Constant <value_ints = [9223372036854775807]> ()
    last = Slice (s2, minus, far)
    width = Cast <to = 1> (last)
    root = Sqrt (width)
    one = Constant <value_float = 1.0> ()
    scale = Div (one, root)
    y = Mul (split, scale)
}"""


def rewritten(text: str) -> ir.Model:
    model = ir.from_onnx_text(text)
    for one in (Normalize(), FoldConstants(), CleanUp()):
        one(model)
    return model


@pytest.mark.parametrize(("batch", "sequence", "past"), [(1, 1, 0), (2, 3, 4), (3, 1, 5)])
def test_legacy_shape_arithmetic_goes(batch: int, sequence: int, past: int) -> None:
    model = rewritten(LEGACY_ATTENTION)
    assert [node.op_type for node in model.graph] == ["Concat", "Reshape", "Mul"]
    rng = np.random.default_rng(0)
    feeds = {
        name: rng.standard_normal((batch, length, 8), dtype=np.float32)
        for name, length in (("x", sequence), ("p", past))
    }
    original = onnx.parser.parse_model(LEGACY_ATTENTION).SerializeToString()
    np.testing.assert_array_equal(run(session(original), feeds)[0], run(session(model), feeds)[0])


def test_random_numbers_stay_random() -> None:
    model = rewritten(
        """<ir_version: 10, opset_import: ["" : 23]> g (float[n] x) => (float[n] y)
        { s = Constant <value_ints = [1]> () z = ConstantOfShape (s) r = RandomNormalLike (z) y = Add (x, r) }"""
    )
    assert [node.op_type for node in model.graph] == ["RandomNormalLike", "Add"]


def test_an_operator_without_a_kernel_is_declined() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 23]> g (float[n] x) => (float[n] y)
        <float[1] a = {1}> { b = Cast <to = 16> (a) m = Tan (b) f = Cast <to = 1> (m) y = Mul (x, f) }"""
    )
    applied = FoldConstants().call(model)
    assert [node.op_type for node in model.graph] == ["Cast", "Tan", "Cast", "Mul"]
    assert any("ONNX Runtime cannot compute it" in one.reason for one in applied.declined)


def test_a_zero_in_a_shape_that_means_zero_stays() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 23]> g (float[n,0] x) => (float[n,0] y)
        { s = Shape (x) r = Reshape <allowzero = 1> (x, s) y = Neg (r) }"""
    )
    FoldConstants()(model)
    (y,) = run(session(model), {"x": np.zeros((3, 0), np.float32)})
    assert y.shape == (3, 0)


def test_a_size_is_not_taken_from_a_branch_that_may_not_run() -> None:
    text = """<ir_version: 10, opset_import: ["" : 23]> g (bool c, float[n,4] x) => (int64[1] y) {
        y = If (c) <then_branch = t () => (int64[1] a) { s = Shape <start = 0, end = 1> (x) a = Neg (s) },
                    else_branch = e () => (int64[1] b) { s = Shape <start = 0, end = 1> (x) b = Abs (s) }>
    }"""
    model = rewritten(text)
    for condition, expected in ((True, -3), (False, 3)):
        assert run(session(model), {"c": np.array(condition), "x": np.ones((3, 4), np.float32)})[0] == [expected]


def test_constants_in_branches_are_folded_into_the_root() -> None:
    model = rewritten(
        """<ir_version: 10, opset_import: ["" : 23]> g (bool c, float[n] x) => (float[n] y) {
            k = Constant <value_float = 4.0> ()
            y = If (c) <then_branch = t () => (float[n] a) { r = Sqrt (k) a = Mul (x, r) },
                        else_branch = e () => (float[n] b) { r = Neg (k) b = Mul (x, r) }>
        }"""
    )
    assert sorted(node.op_type for node in model.graph.all_nodes()) == ["If", "Mul", "Mul"]
    for condition, factor in ((True, 2), (False, -4)):
        (y,) = run(session(model), {"c": np.array(condition), "x": np.ones(2, np.float32)})
        assert y.tolist() == [factor, factor]


def outputs(text: str, feeds: dict[str, Array]) -> tuple[ir.Model, list[Array], list[Array]]:
    model = rewritten(text)
    source = onnx.parser.parse_model(text).SerializeToString()
    return model, run(session(source, optimize="disabled"), feeds), run(session(model), feeds)


X = {"x": np.arange(12, dtype=np.float32).reshape(3, 4)}

EXACT = {
    "a mask of positions": "j = Range (zero, four, one) r = Unsqueeze (j, nil) c = Unsqueeze (j, first)"
    " d = Sub (r, c) after = Greater (d, zero) m = Where (after, low, high) y = Add (z, m)",
    "a window, backwards": "j = Range (three, minus, minus) r = Unsqueeze (j, nil) c = Unsqueeze (j, first)"
    " d = Sub (r, c) a = Abs (d) near = Less (a, two) f = Cast <to = 1> (near) y = Mul (z, f)",
    "buckets by the remainder": "j = Range (zero, four, one) r = Unsqueeze (j, nil) c = Unsqueeze (j, first)"
    " d = Sub (r, c) k = Mod <fmod = 1> (d, three) l = Mod (d, three) t = Add (k, l)"
    " f = Cast <to = 1> (t) y = Mul (z, f)",
    "indices in a matrix": "s = Shape (square) g = Gather (s, pairs) f = Cast <to = 1> (g) t = Gather (f, one)"
    " q = Concat <axis = 0> (t, t) y = Add (z, q)",
    "a hash that wraps around": "j = Range (zero, four, one) h = Mul (j, prime) p = Add (h, prime) q = Mul (p, p)"
    " b = Mod (q, three) f = Cast <to = 1> (b) y = Add (z, f)",
    "bytes that wrap around": "d = Sub (bytes, more) s = Mul (d, more) f = Cast <to = 1> (s) y = Add (z, f)",
    "bytes of too large numbers": "j = Range (zero, four, one) h = Mul (j, hundred) b = Cast <to = 2> (h)"
    " f = Cast <to = 1> (b) y = Add (z, f)",
}


@pytest.mark.parametrize("body", EXACT.values(), ids=EXACT)
def test_matrices_of_positions_and_integers_that_wrap(body: str) -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 23]> g (float[n,4] x) => (float[n,4] y)
        <int64 zero = {{0}}, int64 one = {{1}}, int64 two = {{2}}, int64 three = {{3}}, int64 four = {{4}},
         int64 minus = {{-1}}, int64[1] nil = {{0}}, int64[1] first = {{1}},
         int64 prime = {{4611686018427387847}}, int64 hundred = {{100}},
         uint8[4] bytes = {{3, 200, 0, 9}}, uint8 more = {{77}}, int64[2,2] pairs = {{0, 1, 1, 0}}, float low = {{-9}},
         float high = {{0}}, float[4,3] square = {{1,2,3,4,5,6,7,8,9,10,11,12}}>
        {{ z = Identity (x) {body} }}"""
    if "d = Sub (r, c)" in body:
        text = text.replace("float[n,4]", "float[4,4]")
    feeds = {"x": np.arange(16 if "[4,4]" in text else 12, dtype=np.float32).reshape(-1, 4)}
    model, expected, results = outputs(text, feeds)
    np.testing.assert_array_equal(results[0], expected[0])
    assert len(model.graph) == 1  # all of it was folded


def test_the_branch_of_a_constant_condition_takes_the_place_of_an_if() -> None:
    branches = """y{0} = If (c{0}) <
        then_branch = t () => (float[n,4] a) <float k = {{{0}}}> {{ r = Exp (x) a = Mul (r, k) }},
        else_branch = e () => (float[n,4] b) {{ r = Neg (x) b = Abs (r) }}>"""
    text = f"""<ir_version: 10, opset_import: ["" : 23]> g (float[n,4] x) => (float[n,4] y)
        <int64 two = {{2}}> {{ s = Identity (two) c3 = Equal (s, two) c5 = Not (c3) {branches.format(3)}
        {branches.format(5)}
        y = Add (y3, y5) }}"""
    model, expected, results = outputs(text, X)
    np.testing.assert_array_equal(results[0], expected[0])
    assert sorted(node.op_type for node in model.graph.all_nodes()) == ["Abs", "Add", "Exp", "Mul", "Neg"]


def test_the_name_that_an_output_is_declared_with_is_not_relied_on() -> None:
    text = """<ir_version: 10, opset_import: ["" : 23]> g (float[n,4] x) => (float[n,4] y, float[m] z)
        <int64[1] one = {1}, int64[1] far = {9223372036854775807}, int64[1] nil = {0}>
        { y = Slice (x, one, far, nil)  size = Shape <end = 1> (y)
          z = ConstantOfShape <value = float[1] {1}> (size) }"""
    _, expected, results = outputs(text, X)
    assert [array.shape for array in results] == [array.shape for array in expected] == [(2, 4), (2,)]


def test_every_result_of_a_node_is_folded() -> None:
    text = """<ir_version: 10, opset_import: ["" : 23]> g (float[n,4] x) => (float[n,4] y)
        <float[8] c = {1, 2, 3, 4, 5, 6, 7, 8}> { a, b = Split <num_outputs = 2> (c)
          t = Add (x, b)  y = Mul (t, a) }"""
    model, expected, results = outputs(text, X)
    np.testing.assert_array_equal(results[0], expected[0])
    assert [node.op_type for node in model.graph] == ["Add", "Mul"]


def test_what_a_caller_may_give_is_no_constant() -> None:
    text = """<ir_version: 10, opset_import: ["" : 23]> g (float[n,4] x, int64[1] k) => (float[n,m] y)
        <int64[1] k = {1}, int64[1] four = {4}> { d = Div (four, k)  t = Concat <axis = 0> (four, d)
        e = Constant <value_ints = [-1]> () s = Concat <axis = 0> (e, d) y = Reshape (x, s) }"""
    model = rewritten(text)
    assert "Div" in [node.op_type for node in model.graph]


def test_strings_are_left_alone() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 23]> g (string[1] s) => (string[2] y) <string[2] k = {"a", "b"}>
        { u = StringConcat (k, k) y = StringConcat (s, u) }"""
    )
    assert any("strings" in one.reason for one in FoldConstants().call(model).declined)
