"""Calibrated codes in a graph: what is written can be read back, under the old names; ranges keep their word."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bct_onnx.forms import codes
from bct_onnx.forms.codes import Range
from bct_onnx.graph import tensors
from bct_onnx.graph.edit import Edit
from tests.passes.small import check, model, normal, ops, outputs

ends = st.floats(0, 1e6, allow_subnormal=False)
spans = st.builds(lambda low, high: Range(-low, high), ends, ends)
TEXT = "g (float[n,8] x) => (float[n,8] y, float[n,8] z) { h = Neg (x)  y = Exp (h)  z = Abs (h) }"


def decoded(code: float, scale: np.float32, zero: int) -> float:
    return float(scale) * (code - zero)


@given(spans)
def test_eight_bits_cover_the_range_and_zero_has_a_code(span: Range) -> None:
    scale, zero = span.uint8()
    assert scale.dtype == np.float32 and scale > 0 and 0 <= zero <= 255
    assert decoded(zero, scale, zero) == 0
    assert decoded(0, scale, zero) <= span.low + 0.501 * scale
    assert decoded(255, scale, zero) >= span.high - 0.501 * scale


@given(spans)
def test_sixteen_bits_cover_the_range(span: Range) -> None:
    scale, zero = span.int16()
    assert scale.dtype == np.float32 and scale > 0 and zero == 0
    assert decoded(-32768, scale, 0) <= span.low + 0.01 * scale
    assert decoded(32767, scale, 0) >= span.high - 0.01 * scale


@given(spans, st.sampled_from([8, 16]))
def test_shifted_ranges_have_a_power_of_two_as_their_scale(span: Range, bits: int) -> None:
    wider = span.shifted(bits)
    assert wider.low <= span.low * (1 - 1e-12) and wider.high >= span.high * (1 - 1e-12)
    scale, zero = wider.uint8() if bits == 8 else wider.int16()
    assert math.frexp(scale)[0] == 0.5 and zero == (128 if bits == 8 else 0)
    top = max(span.high, -span.low)
    assert top < 2**bits * 1e-30 or top > 0.49 * wider.high, "the smallest such range, of steps from 1e-30"


def test_a_range_that_is_a_power_of_two_stays() -> None:
    assert Range(-1.0, 127 / 128).shifted(8) == Range(-1.0, 127 / 128)
    assert Range(-2.0, 0.5).shifted(16) == Range(-2.0, 2 - 2.0**-14)


def test_a_range_of_nothing() -> None:
    assert Range(0, 0).uint8()[1] == 0 and Range(-1, 0).uint8()[1] == 255 and Range(0, 1).uint8()[1] == 0


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("half", [False, True])
def test_what_is_inserted_is_read_back(bits: int, half: bool) -> None:
    target = model(TEXT.replace("float[", "float16[") if half else TEXT)
    before = target.graph[0].outputs[0]
    back = codes.insert(before, Range(-1.0, 3.0), bits)
    check(target)
    found = codes.read(back)
    assert found is not None and found.factors is None and found.codes.dtype == codes.TYPES[bits]
    assert found.step == pytest.approx(4 / 255 if bits == 8 else 3 / 32767, rel=1e-6)
    assert found.zero_point is not None and int(tensors.array(found.zero_point)) == (64 if bits == 8 else 0)
    assert (back.name, before.name) == ("h", "h.float") and back.dtype == before.dtype and back.shape == before.shape
    quantize = codes.quantized(before)
    assert quantize is not None and quantize.outputs[0] is found.codes
    assert {use.node.op_type for use in back.uses()} == {"Exp", "Abs"}
    assert [node.op_type for node in found.nodes] == (["Cast"] if half else []) + ["DequantizeLinear"]
    x = normal(5, 8).astype(np.float16 if half else np.float32)
    want = np.abs(np.clip(np.negative(x), -1.0 if bits == 8 else -3.0, 3.0))
    for _, got in outputs(target, x=x).values():
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=0.51 * found.step)


def test_an_output_of_the_graph_keeps_its_name() -> None:
    target = model(TEXT)
    source = target.graph[1].outputs[0]
    back = codes.insert(source, Range(0, 8.0))
    check(target)
    assert target.graph.outputs[0] is back and back.name == "y" and source.name == "y.float"


def test_what_nothing_makes_is_not_quantized() -> None:
    with pytest.raises(ValueError, match="made by no node"):
        codes.insert(model(TEXT).graph.inputs[0], Range(-1, 1))


def test_what_is_known_of_the_value_holds_for_the_codes() -> None:
    target = model(TEXT)
    target.graph[0].outputs[0].meta["known"] = 1
    assert codes.insert(target.graph[0].outputs[0], Range(-1, 1)).meta["known"] == 1


FACTORS = "g (float[n,8] x) => (float[n,8] y) <float s = {0.5}, uint8 z = {3}> { q = QuantizeLinear (x, s, z) %s }"


@pytest.mark.parametrize(
    ("body", "factors", "nodes"),
    [
        ("y = DequantizeLinear (q, s, z)", False, ["DequantizeLinear"]),
        ("d = DequantizeLinear (q, s, z)  y = Mul (d, f)", True, ["Mul", "DequantizeLinear"]),
        ("d = DequantizeLinear (q, s, z)  y = Mul (f, d)", True, ["Mul", "DequantizeLinear"]),
        ("d = DequantizeLinear (q, s, z)  c = Cast <to = 10> (d)  e = Mul (c, h)  y = Cast <to = 1> (e)", True, []),
    ],
    ids=["plain", "factors", "factors first", "half precision"],
)
def test_reading(body: str, factors: bool, nodes: list[str]) -> None:
    target = model(FACTORS % body, f=normal(8), h=normal(8).astype(np.float16))
    value: ir.Value | None = target.graph.outputs[0]
    if not nodes:  # a Cast of its own hides the rest; what stands before it is codes
        assert codes.read(value) is None
        value, nodes = target.graph[-1].inputs[0], ["Mul", "Cast", "DequantizeLinear"]
    found = codes.read(value)
    assert found is not None and [node.op_type for node in found.nodes] == nodes
    assert (found.factors is not None) == factors and found.step == 0.5


@pytest.mark.parametrize(
    ("body", "arrays"),
    [
        ("y = DequantizeLinear <axis = 1> (q, v)", {"v": normal(8)}),
        ("d = DequantizeLinear (q, s, z)  y = Mul (d, x)", {}),
        ("d = DequantizeLinear (q, s, z)  y = Mul (d, m)", {"m": normal(1, 8)}),
        ("t = ReduceMax <keepdims = 0> (x)  y = DequantizeLinear (q, t, z)", {}),
        ("y = DequantizeLinear (w, s)", {"w": np.zeros((1, 8), np.int8)}),
        ("y = Exp (x)", {}),
    ],
    ids=["scale per channel", "computed factors", "a matrix of factors", "computed scale", "a weight", "no codes"],
)
def test_what_is_not_codes_of_one_scale(body: str, arrays: dict[str, Any]) -> None:
    assert codes.read(model(FACTORS % body, **arrays).graph.outputs[0]) is None


def test_inputs_of_the_model_are_not_codes() -> None:
    target = model(TEXT)
    assert codes.read(target.graph.inputs[0]) is None and codes.read(None) is None


@pytest.mark.parametrize(
    "body",
    [
        "h = Neg (x)  q = QuantizeLinear (h, s, z)  y = DequantizeLinear (q, s, z)  a = Exp (h)",
        "h = Neg (x)  y = Exp (h)  a = Abs (y)",
        "h = Neg (x)  t = ReduceMax <keepdims = 0> (x)  q = QuantizeLinear (h, t, z)  y = DequantizeLinear (q, t, z)"
        "  a = Abs (y)",
        "h = Neg (x)  q = QuantizeLinear <output_dtype = 2> (h, s)  y = DequantizeLinear (q, s)  a = Abs (y)",
        "a = Neg (x)  q = QuantizeLinear (a, s, z)  y = DequantizeLinear (q, s, z)",
    ],
    ids=["used as a float too", "no codes", "computed scale", "no zero point", "an output"],
)
def test_values_that_are_not_codes_alone(body: str) -> None:
    text = "g (float[n,8] x) => (float[n,8] y, float[n,8] a) <float s = {0.5}, uint8 z = {3}> {" + body + "}"
    assert codes.quantized(model(text).graph[0].outputs[0]) is None


def test_giving_codes_as_values() -> None:
    target = model("g (int8[n,8] x, float16[n,8] l) => (float16[n,8] y) { y = Neg (l) }")
    neg = target.graph[0]
    edit = Edit(neg)
    scale = edit.scalar("scale", 0.25, ir.DataType.FLOAT)
    edit.replace(neg.outputs[0], codes.give(edit, target.graph.inputs[0], scale, None, neg.outputs[0]))
    check(target)
    assert ops(target) == {"DequantizeLinear": 1, "Cast": 1}
    found = codes.read(target.graph.outputs[0])
    assert found is not None and found.zero_point is None and found.codes is target.graph.inputs[0]
    (got,) = outputs(target, x=np.arange(16, dtype=np.int8).reshape(2, 8), l=np.zeros((2, 8), np.float16))["all"]
    np.testing.assert_array_equal(got, np.arange(16).reshape(2, 8) / 4)


@pytest.mark.parametrize(
    ("array", "shape"),
    [(normal(8), (8,)), (np.float32(3), ()), (normal(8).astype(np.float16), (8,)), (normal(2, 4), None)],
    ids=["vector", "scalar", "half", "matrix"],
)
def test_vectors(array: np.ndarray[Any, Any], shape: tuple[int, ...] | None) -> None:
    target = model("g (float[n,8] x) => (float[n,8] y) { y = Neg (x) }", c=np.asarray(array))
    found = codes.vector(target.graph.initializers["c"])
    assert (None if found is None else found.shape) == shape
    assert codes.vector(target.graph.outputs[0]) is None and codes.vector(None) is None
    integers = model("g (float[n,8] x) => (float[n,8] y) { y = Neg (x) }", c=np.arange(8))
    assert codes.vector(integers.graph.initializers["c"]) is None


@pytest.mark.filterwarnings("error")
def test_a_range_beyond_float32_has_a_zero_point() -> None:
    assert Range(-6e38, 0.0).uint8()[1] == 255


@pytest.mark.parametrize(
    ("scale", "point", "read"),
    [
        (np.float32(0.1), np.uint8(7), True),
        (np.float32(0.0), np.uint8(7), False),
        (np.float32("inf"), np.uint8(7), False),
        (np.float32("nan"), np.uint8(7), False),
        (np.float32(-0.1), np.uint8(7), False),
        (np.float16(0.1), np.uint8(7), False),
        (np.ones(1, np.float32), np.ones(1, np.uint8), False),
    ],
)
def test_scales_that_no_pass_has_written_are_not_read(scale: Any, point: Any, read: bool) -> None:
    """A step of nothing has no table of codes, and one of another type makes results of that type."""
    kind = "float16" if scale.dtype == np.float16 else "float"
    text = f"g ({kind}[n,8] x) => ({kind}[n,8] y) {{ q = QuantizeLinear (x, s, z)  y = DequantizeLinear (q, s, z) }}"
    target = model(text, s=np.asarray(scale), z=np.asarray(point))
    first, last = target.graph
    assert (codes.quantized(target.graph.inputs[0]) is first) is read
    assert (codes.read(last.outputs[0]) is not None) is read


def test_a_zero_point_that_is_computed_is_not_read() -> None:
    target = model(
        """g (float[n,8] x, uint8 u) => (float[n,8] y) {
            z = Identity (u)  q = QuantizeLinear (x, s, z)  y = DequantizeLinear (q, s, z) }""",
        s=np.array(0.1, np.float32),
    )
    assert codes.quantized(target.graph.inputs[0]) is None and codes.read(target.graph[-1].outputs[0]) is None
