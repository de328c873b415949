"""Nodes that a target would not take, and why; small graphs with one thing wrong."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from bct_onnx import targets
from bct_onnx.runtime.session import session
from bct_onnx.targets import Legality

_HEAD = '<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]> g '


def _check(target: str, text: str) -> Legality:
    return targets.check(ir.from_onnx_text(_HEAD + text), targets.find(target))


@pytest.mark.parametrize(
    ("target", "text", "operator", "why"),
    [
        (
            "ort-cuda",
            """(float[n,32] x, uint8[8,1,16] b, float[8,1] s) => (float[n,8] y)
            { y = com.microsoft.MatMulNBits <K = 32, N = 8, bits = 4, block_size = 32> (x, b, s) }""",
            "com.microsoft::MatMulNBits",
            "input 1 is not constant",
        ),
        (
            "webgpu",
            """(float[n,32] x) => (float[n,1] y) <uint8[1,1,12] b = {0,0,0,0,0,0,0,0,0,0,0,0}, float[1,1] s = {1}>
            { y = com.microsoft.MatMulNBits <K = 32, N = 1, bits = 3, block_size = 32> (x, b, s) }""",
            "com.microsoft::MatMulNBits",
            "bits is 3; it takes 2, 4, 8",
        ),
        (
            "webgpu",
            """(float[n,2,s,8] q, float[n,2,s,8] k, float[n,2,s,8] v) => (float[n,2,s,8] y)
            { y = Attention (q, k, v) }""",
            "Attention",
            "there is no kernel for it",
        ),
        (
            "qnn",
            """(float[4,2] x, float s) => (float[4,2] y) <uint8 z = {0}>
            { c = QuantizeLinear (x, s, z)  y = DequantizeLinear (c, s, z) }""",
            "QuantizeLinear",
            "input 1 is not constant",
        ),
        (
            "qnn",
            """(float[4,2] x) => (float[4,2] y) <int8[2,2] c = {1,2,3,4}, float[2] s = {1, 2}>
            { w = DequantizeLinear <axis = 1> (c, s)  y = MatMul (x, w) }""",
            "DequantizeLinear",
            "decoded in every run",
        ),
        (
            "qnn",
            """(float[4,2] x) => (float[4,2] y) <int8[2,2] c = {1,2,3,4}, float[1,2] s = {1, 2}>
            { w = DequantizeLinear <axis = 0, block_size = 2> (c, s)  y = MatMul (x, w) }""",
            "DequantizeLinear",
            "it has a scale per block",
        ),
        ("portable", "(float[n] x) => (float[n] y) { y = com.microsoft.A (x) }", "com.microsoft::A", "no standard"),
        ("qnn", "(float[n,4] x) => (float[n,4] y) { y = Neg (x) }", "input", "dimension n has no fixed size"),
        ("ort-cpu", "(float[n] x) => (float[n] y) { y = com.microsoft.A (x) }", "com.microsoft::A", "no kernel"),
    ],
)  # fmt: skip
def test_what_must_be_taken_and_is_not(target: str, text: str, operator: str, why: str) -> None:
    found = _check(target, text).illegal
    assert found and found[0].operator == operator and why in found[0].why, found


def test_too_high_an_opset() -> None:
    text = '<ir_version: 10, opset_import: ["" : 24]> g (float[n,4] x) => (float[n,4] y) { y = Neg (x) }'
    (one,) = targets.check(ir.from_onnx_text(text), targets.find("ort-cuda")).illegal
    assert one.operator == "opset" and "24" in one.why and not one.falls_back


def test_what_may_fall_back_is_counted() -> None:
    legality = _check(
        "webgpu",
        """(int64[n] x, float[n] f) => (int64[n] y, float[n] g)
        { a = Add (x, x)  b = Add (a, x)  y = Max (b, x)  g = Neg (f) }""",
    )
    assert legality.illegal == () and legality.fallback == {"Add": 2, "Max": 1} and legality.nodes == 4
    assert legality.as_dict()["fallback"] == {"Add": 2, "Max": 1}


def test_constants_are_gone_once_loaded_but_not_what_is_quantized() -> None:
    legality = _check(
        "ort-cuda",
        """(float[n,2] x) => (float[n,2] y) <uint8[2,2] c = {1,2,3,4}, float[2] s = {1, 2}, uint8 one = {1}>
        { d = BitShift <direction = "LEFT"> (c, one)  w = DequantizeLinear <axis = 1> (d, s)  y = MatMul (x, w) }""",
    )
    assert legality.refused == () and legality.nodes == 2, "BitShift has no kernel there, and needs none"


def test_functions_are_looked_into() -> None:
    text = """<ir_version: 10, opset_import: ["" : 23, "own" : 1]> g (uint8[n] x) => (uint8[n] y) { y = own.f (x) }
    <domain: "own", opset_import: ["" : 18]> f (a) => (b) { b = BitwiseNot (a) }"""
    legality = targets.check(ir.from_onnx_text(text), targets.find("ort-cuda"))
    assert legality.fallback == {"BitwiseNot": 1}


def test_float16_runs_as_float32_where_the_target_does_that() -> None:
    text = "(float16[n,4] x) => (float16[n,4] y) { y = Erf (x) }"
    assert _check("ort-cpu", text).refused == () and _check("portable", text).refused == ()


@pytest.mark.parametrize(
    "body",
    ["y = Gelu (x)", "s = CastLike (one, x)  y = GroupNormalization <num_groups = 2> (x, s, s)"],
    ids=["one function", "a function of its types"],
)
def test_the_cpu_provider_expands_operators_that_are_functions(body: str) -> None:
    text = f"(float[n,4] x, float[4] one) => (float[n,4] y) {{ {body} }}"
    assert not _check("ort-cpu", text).refused


SEQUENCES = {
    "at": "q = SplitToSequence <axis = 1> (x, two) y = SequenceAt (q, zero)",
    "insert, erase and concat": """q = SplitToSequence <axis = 1> (x, two) a = SequenceAt (q, zero)
        r = SequenceErase (q, zero) t = SequenceInsert (r, a) y = ConcatFromSequence <axis = 1> (t)""",
    "construct and length": """q = SequenceConstruct (x, x) n = SequenceLength (q) f = Cast <to = 1> (n)
        a = SequenceAt (q, zero) y = Mul (a, f)""",
    "a loop that collects": """e = SequenceEmpty <dtype = 1> () t = Cast <to = 9> (two)
        s = Loop (two, t, e) <body = b (int64 i, bool c, seq(float[2,4]) v) => (bool d, seq(float[2,4]) w)
            { d = Identity (c) w = SequenceInsert (v, x) }>
        y = ConcatFromSequence <axis = 0> (s)""",
    "a branch": """q = SequenceConstruct (x, x) t = Cast <to = 9> (two)
        r = If (t) <then_branch = a () => (seq(float[2,4]) u) { u = Identity (q) },
                    else_branch = b () => (seq(float[2,4]) v) { v = SequenceInsert (q, x) }>
        y = ConcatFromSequence <axis = 0> (r)""",
    "an optional": "o = Optional (x) h = OptionalHasElement (o) g = OptionalGetElement (o) y = Neg (g)",
    "an optional sequence": """q = SequenceConstruct (x, x) o = Optional (q) g = OptionalGetElement (o)
        y = ConcatFromSequence <axis = 0> (g)""",
    "a map over a sequence": """q = SequenceConstruct (x, x)
        r = SequenceMap (q) <body = b (float[2,4] a) => (float[2,4] n) { n = Neg (a) }>
        y = ConcatFromSequence <axis = 0> (r)""",
}


@pytest.mark.parametrize("body", SEQUENCES.values(), ids=SEQUENCES)
def test_sequences_and_optionals_are_no_tensors(body: str) -> None:
    model = ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["" : 22]> g (float[2,4] x) => (float[a,b] y)
        <int64 zero = {{0}}, int64 two = {{2}}> {{ {body} }}"""
    )
    session(model)
    for target in ("ort-cpu", "portable"):
        assert targets.check(model, targets.find(target)).illegal == ()


def test_a_sequence_is_no_tensor_the_other_way_round() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 22]> g (float[2,4] x) => (float[a,b] y)
        <int64 zero = {0}> { q = SequenceConstruct (x, x) y = Neg (q) }"""
    )
    (one,) = targets.check(model, targets.find("ort-cpu")).illegal
    assert one.why.startswith("input 0 is seq(tensor(float)); it takes")


def test_a_kernel_is_for_some_opsets() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 22]> g (float[n] x) => (float[n] y) { y = RandomNormalLike (x) }'
    )
    (one,) = targets.check(model, targets.find("ort-cpu")).illegal
    assert "opset 22" in one.why and "version 1" in one.why
    model.opset_imports[""] = 21
    assert targets.check(model, targets.find("ort-cpu")).illegal == ()


def test_other_domains_of_onnx_are_standard() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 22, "ai.onnx.ml" : 3]> g (float[n,2] x) => (float[n,2] y)
        { y = ai.onnx.ml.Normalizer <norm = "L2"> (x) }"""
    )
    assert targets.check(model, targets.find("portable")).illegal == ()
