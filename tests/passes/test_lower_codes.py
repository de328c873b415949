"""Codes in ONNX Runtime's byte-sized kernels: the same integers in products, stated bounds elsewhere, at all levels."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.base import Pass
from bct_onnx.course import Course
from bct_onnx.forms import weights
from bct_onnx.forms.byte_kernels import FINEST_GELU
from bct_onnx.integer import lookup
from bct_onnx.runtime.session import run, session
from passes.bypass_codes import BypassCodes
from passes.calibrate import Calibrate
from passes.integer_gelu import IntegerGelu
from passes.integer_sigmoid import IntegerSigmoid
from passes.integer_softmax import IntegerSoftmax
from passes.lower_codes import LowerCodes
from passes.quantize_activations import QuantizeActivations
from passes.quantize_weights import QuantizeWeights
from tests.passes.small import apply, everywhere, model, normal, ops

Array = np.ndarray[Any, Any]
FORMATS = [
    QuantizeWeights(),
    QuantizeWeights(bits=8),
    QuantizeWeights(bits=8, reduce_range=False),
    QuantizeWeights(bits=3),
    QuantizeWeights(symmetric=False),
    QuantizeWeights(block=(16, 16), scale="shift"),
]
X_SCALE, X_ZERO, Y_SCALE, Y_ZERO = np.float32(0.02), 131, np.float32(0.07), 120
LINEAR = f"""g (uint8[%s,64] q) => (uint8[%s,48] p, %s[%s,48] y)
    <float s = {{{X_SCALE}}}, uint8 z = {{{X_ZERO}}}, float t = {{{Y_SCALE}}}, uint8 u = {{{Y_ZERO}}}> {{
    %s  m = MatMul (h, w)  %s  %s  p = QuantizeLinear (g, t, u)  n = MatMul (h, v)  y = Neg (n) }}"""


def linear(dims: str, *, bias: bool = True, half: bool = False) -> ir.Model:
    kind, dtype = ("float16", np.float16) if half else ("float", np.float32)
    read = "d = DequantizeLinear (q, s, z)  h = Cast <to = 10> (d)" if half else "h = DequantizeLinear (q, s, z)"
    wide = "g = Cast <to = 1> (a)" if half else "g = Identity (a)"
    text = LINEAR % (dims, dims, kind, dims, read, "a = Add (b, m)" if bias else "a = Identity (m)", wide)
    text = text if half else text.replace("g = Identity (a)", "").replace("(g, t, u)", "(a, t, u)")
    text = text if bias else text.replace("a = Identity (m)", "").replace("(a", "(m")
    arrays = {"w": normal(64, 48, seed=1, scale=0.1), "v": normal(64, 48, seed=2, scale=0.1), "b": normal(48, seed=3)}
    return model(text, **{name: array.astype(dtype) for name, array in arrays.items()})


def integers(target: ir.Model, q: Array) -> Array:
    """What the quantized product must be: the decoded weight, integers times scales, rounded once; float64."""
    node = next(node for node in target.graph if node.op_type == "MatMul")
    stored = weights.read(node.inputs[1])
    assert stored is not None
    copy = ir.from_proto(ir.to_proto(target))
    name = stored.float32.name
    copy.graph.outputs[:] = [value for node in copy.graph for value in node.outputs if value.name == name]
    (weight,) = run(session(copy, optimize="disabled"), {"q": q})
    product: Array = (q.astype(np.float64) - X_ZERO) * float(X_SCALE) @ weight.astype(np.float64)
    return product


@pytest.mark.parametrize("one", FORMATS, ids=str)
@pytest.mark.parametrize("half", [False, True])
def test_products_have_the_same_integers(one: QuantizeWeights, half: bool) -> None:
    q = np.random.default_rng(0).integers(0, 256, (2, 9, 64)).astype(np.uint8)
    target = linear("n,s", half=half)
    apply(one, target)
    exact = integers(target, q)
    portable = run(session(target, optimize="disabled"), {"q": q})
    assert len(apply(LowerCodes(), target).sites) == 2
    codes, floats = everywhere(target, q=q)
    assert ops(target)["MatMulIntegerToFloat"] == 2 and ops(target)["QuantizeLinear"] == 1
    bias = normal(48, seed=3).astype(np.float16 if half else np.float32).astype(np.float64)
    steps = (exact + bias) / float(Y_SCALE) + Y_ZERO
    off = np.abs(codes - np.clip(steps, 0, 255))
    assert off.max() < (0.53 if half else 0.51), "rounded once: the bias to a fraction of a step, then the sum"
    np.testing.assert_allclose(floats, portable[1], rtol=0, atol=(2e-3 if half else 1e-5) * np.abs(portable[1]).max())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dims", "shape"), [("n", (5,)), ("n,s", (2, 3)), ("n,2,s", (3, 2, 4)), ("n,s", (2, 0))])
def test_any_rank_with_and_without_bias(dims: str, shape: tuple[int, ...], bias: bool) -> None:
    q = np.random.default_rng(0).integers(0, 256, (*shape, 64)).astype(np.uint8)
    target = linear(dims, bias=bias)
    apply(QuantizeWeights(), target)
    want = run(session(target, optimize="disabled"), {"q": q})[0].astype(int)
    apply(LowerCodes(), target)
    got = everywhere(target, q=q)[0]
    assert got.shape == (*shape, 48) and (np.abs(got - want) <= 1).all() and (got != want).sum() <= 0.02 * got.size
    assert not {"Reshape", "Shape", "Add"} & set(ops(target))


def test_a_row_does_not_depend_on_others() -> None:
    q = np.random.default_rng(0).integers(0, 256, (3, 7, 64)).astype(np.uint8)
    target = linear("n,s")
    for one in (QuantizeWeights(), LowerCodes()):
        apply(one, target)
    whole = everywhere(target, q=q)
    for got, want in zip(everywhere(target, q=q[1:2, 2:4]), whole, strict=True):
        np.testing.assert_array_equal(got, want[1:2, 2:4])


@pytest.mark.parametrize("reduce_range", [True, False])
def test_extreme_codes_do_not_saturate(reduce_range: bool) -> None:
    """255 times the largest weights of one sign: pairs of products stay in int16, or are not added in it."""
    target = model(
        """g (uint8[n,64] q) => (uint8[n,32] p) <float s = {0.1}, uint8 z = {0}, float t = {8.0}, uint8 u = {0}>
        { h = DequantizeLinear (q, s, z)  m = MatMul (h, w)  p = QuantizeLinear (m, t, u) }""",
        w=np.ones((64, 32), np.float32),
    )
    for one in (QuantizeWeights(bits=8, reduce_range=reduce_range), LowerCodes()):
        apply(one, target)
    (got,) = everywhere(target, q=np.full((3, 64), 255, np.uint8))
    assert (got == 204).all()  # 25.5 * 64 / 8


FUNCTIONS = """g (uint8[n,k] q) => (uint8[n,k] p) <float s = {%s}, uint8 z = {%s}, float t = {%s}, uint8 u = {%s}>
    { d = DequantizeLinear (q, s, z)  %s  p = QuantizeLinear (g, t, u) }"""
CODES = np.arange(256, dtype=np.uint8).reshape(4, 64)


def lowered(
    one: Pass, scales: tuple[float, int, float, int], body: str, products: Literal["gate", "table"] = "gate"
) -> tuple[ir.Model, Array]:
    target = model(FUNCTIONS % (*scales, body))
    assert len(apply(one, target).sites) == 1
    apply(LowerCodes(products=products, gelu="gate"), target)
    return target, everywhere(target, q=CODES)[0]


@pytest.mark.parametrize("scale", [0.01, 0.05, 0.2])
@pytest.mark.parametrize(
    ("one", "body", "name", "formula"),
    [
        (IntegerGelu(), "g = Gelu (d)", "Gelu", 0.0204),
        (IntegerSigmoid(), "h = Sigmoid (d)  g = Mul (d, h)", "Silu", 0.0),
    ],
    ids=["Gelu", "Silu"],
)
def test_products_with_a_sigmoid(one: Pass, body: str, name: str, formula: float, scale: float) -> None:
    """x sigmoid(1.702 x) is off by 0.0204 from GELU; the sigmoid in steps of 1/255 by x / 510."""
    y_scale = scale * 0.6
    target, got = lowered(one, (scale, 100, y_scale, 30), body)
    assert ops(target) == {"QLinearSigmoid": 1, "QLinearMul": 1}
    x = (CODES.astype(np.float64) - 100) * scale
    wanted = lookup.FUNCTIONS[name](x)
    error = np.abs((got - 30.0) * y_scale - np.clip(wanted, -30 * y_scale, 225 * y_scale))
    assert (error <= formula + np.abs(x) / 509 + 0.501 * y_scale).all()


@pytest.mark.parametrize("scale", [0.001, 0.01, 0.2])
def test_gelu_in_floats_is_rounded_once(scale: float) -> None:
    """Its form with tanh is off by 0.0005, which matters where steps are fine."""
    y_scale = scale * 0.6
    target = model(FUNCTIONS % (scale, 100, y_scale, 30, "g = Gelu (d)"))
    apply(IntegerGelu(), target)
    apply(LowerCodes(), target)
    (gelu,) = (node for node in target.graph if node.op_type == "Gelu")
    assert gelu.attributes.get_string("approximate") == ("tanh" if y_scale >= FINEST_GELU else "none")
    (got,) = everywhere(target, q=CODES)
    wanted = lookup.FUNCTIONS["Gelu"]((CODES.astype(np.float64) - 100) * scale) / y_scale + 30
    assert np.abs(got - np.clip(wanted, 0, 255)).max() < 0.65


@pytest.mark.parametrize("scale", [0.01, 0.2])
@pytest.mark.parametrize(
    ("one", "body", "name"),
    [
        (IntegerGelu(), "g = Gelu (d)", "Gelu"),
        (IntegerGelu(variant="sigmoid"), "g = Gelu (d)", "Gelu"),
        (IntegerSigmoid(), "h = Sigmoid (d)  g = Mul (d, h)", "Silu"),
    ],
)
def test_tables_are_rounded_once(one: Pass, body: str, name: str, scale: float) -> None:
    y_scale = scale * 0.6
    target, got = lowered(one, (scale, 100, y_scale, 30), body, "table")
    assert ops(target) == {"Lookup": 1}
    wanted = lookup.FUNCTIONS[name]((CODES.astype(np.float64) - 100) * scale) / y_scale + 30
    assert np.abs(got - np.clip(wanted, 0, 255)).max() < 0.5001


@pytest.mark.parametrize("scale", [0.01, 0.05, 0.2])
def test_sigmoid_and_tanh_are_rounded_once(scale: float) -> None:
    target, got = lowered(IntegerSigmoid(), (scale, 100, 1 / 256, 0), "g = Sigmoid (d)")
    x = (CODES.astype(np.float64) - 100) * scale
    assert ops(target) == {"QLinearSigmoid": 1}
    assert np.abs(got - np.clip(256 / (1 + np.exp(-x)), 0, 255)).max() < 0.501
    target, got = lowered(IntegerSigmoid(), (scale, 100, 1 / 128, 128), "g = Tanh (d)")
    assert ops(target) == {"QLinearSigmoid": 1}
    assert np.abs(got - np.clip(128 + 128 * np.tanh(x), 0, 255)).max() < 0.501


@pytest.mark.parametrize(
    ("body", "scales"), [("g = Sigmoid (d)", (0.05, 100, 0.003, 0)), ("g = Tanh (d)", (0.05, 100, 0.0078125, 127))]
)
def test_functions_whose_codes_the_runtime_does_not_give_stay(body: str, scales: tuple[float, int, float, int]) -> None:
    target, _ = lowered(IntegerSigmoid(), scales, body)
    assert set(ops(target)) <= {"IntegerSigmoid", "IntegerTanh"}


@pytest.mark.parametrize("scale", [0.02, 0.1])
@pytest.mark.parametrize(("step", "zero"), [(1 / 256, 0), (1 / 255, 0), (0.006, 3)])
def test_softmax(scale: float, step: float, zero: int) -> None:
    target, got = lowered(IntegerSoftmax(), (scale, 100, step, zero), "g = Softmax <axis = -1> (d)")
    assert ops(target) == {"QLinearSoftmax": 1}
    e = np.exp((CODES - CODES.max(-1, keepdims=True).astype(np.float64)) * scale)
    wanted = np.clip(e / e.sum(-1, keepdims=True) / step + zero, 0, 255)
    assert np.abs(got - wanted).max() < 1.01


def test_activations_per_token_and_float_weights_are_left_to_others() -> None:
    text = "g (float[n,64] x) => (float[n,32] y, float[n,32] z) { h = Neg (x)  y = MatMul (h, w)  z = MatMul (h, v) }"
    target = model(text, w=normal(64, 32), v=normal(64, 32, seed=1))
    for one in (QuantizeWeights(keep=("v",)), QuantizeActivations()):
        apply(one, target)
    before = ops(target)
    assert not apply(LowerCodes(), target).sites and ops(target) == before


@pytest.mark.parametrize("columns", [1, 32])
def test_a_bias_for_all_columns_is_added_behind_the_kernel(columns: int) -> None:
    """The kernel takes one value per column."""
    text = "g (float[n,64] x) => (float[n,32] y) { h = Relu (x)  p = MatMul (h, w)  y = Add (p, b) }"
    target = model(text, w=normal(64, 32), b=normal(columns, seed=1))
    for one in (
        Calibrate(samples=4),
        QuantizeWeights(),
        QuantizeActivations(per="static", noise="static"),
        LowerCodes(),
    ):
        apply(one, target)
    everywhere(target, x=normal(3, 64, seed=2))
    assert ops(target).get("Add", 0) == (columns == 1)


@pytest.mark.parametrize("products", ["gate", "table"])
@pytest.mark.parametrize(("q", "p"), [("int8", "uint8"), ("int8", "int8"), ("uint8", "int8")])
@pytest.mark.parametrize(
    ("one", "body"),
    [
        (IntegerGelu(), "g = Gelu (d)"),
        (IntegerSigmoid(), "g = Sigmoid (d)"),
        (IntegerSoftmax(), "g = Softmax <axis = -1> (d)"),
    ],
    ids=["Gelu", "Sigmoid", "Softmax"],
)
def test_signed_codes_have_no_kernel(one: Pass, body: str, q: str, p: str, products: Literal["gate", "table"]) -> None:
    text = f"""g ({q}[n,k] q) => ({p}[n,k] p)
        <float s = {{0.04}}, {q} z = {{3}}, float t = {{0.00390625}}, {p} u = {{0}}>
        {{ d = DequantizeLinear (q, s, z)  {body}  p = QuantizeLinear (g, t, u) }}"""
    target = model(text)
    apply(one, target)
    (before,) = everywhere(target, q=CODES.astype(q))
    apply(LowerCodes(products=products), target)
    (after,) = everywhere(target, q=CODES.astype(q))
    np.testing.assert_array_equal(before, after)


def test_gelu_before_codes_of_others_is_exact() -> None:
    """A run that makes no codes finds those of the model: what it promises to lift is to stay what it was."""
    body = "g = Gelu (x)  y = QuantizeLinear (g, s, z)"
    target = model(f"g (float[n,8] x) => (uint8[n,8] y) <float s = {{0.05}}, uint8 z = {{3}}> {{ {body} }}")
    Course((LowerCodes(),)).show(target)
    assert not LowerCodes().apply(target).sites
    Course((QuantizeActivations(), LowerCodes()), 1).show(target)
    assert LowerCodes().apply(target).sites


def test_codes_that_came_with_a_model_clip_as_they_did() -> None:
    """Ranges of a static quantization belong to what the model means: outside of them its values are their ends."""
    body = "q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  y = Neg (d)"
    text = f"g (float[n,8] x) => (float[n,8] y) <float s = {{0.01}}, uint8 z = {{128}}> {{ {body} }}"
    target, ours = model(text), model(text)
    Course((BypassCodes(),)).show(target)
    applied = BypassCodes().apply(target)
    assert not applied.sites and applied.declined[0].reason == "its codes came with the model"
    Course((QuantizeActivations(), BypassCodes()), 1).show(ours)
    assert BypassCodes().apply(ours).sites
