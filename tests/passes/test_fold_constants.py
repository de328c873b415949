"""What folding leaves alone, and what it computes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

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
