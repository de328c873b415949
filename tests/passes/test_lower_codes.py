"""Codes in ONNX Runtime's byte-sized kernels: the same integers in products, stated bounds elsewhere, at all levels."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.base import Pass
from bct_onnx.graph import weights
from bct_onnx.integer import lookup
from bct_onnx.integer.attention_ort_cpu import HIGHEST, RANGE
from bct_onnx.runtime.session import Optimize, run, session
from bct_onnx.runtime.statistics import Scores
from passes.calibrate import Calibrate
from passes.integer_attention import IntegerAttention
from passes.integer_gelu import IntegerGelu
from passes.integer_layer_norm import IntegerLayerNorm
from passes.integer_sigmoid import IntegerSigmoid
from passes.integer_softmax import IntegerSoftmax
from passes.lower_codes import LowerCodes, score_scale
from passes.quantize_activations import QuantizeActivations
from passes.quantize_intermediates import QuantizeIntermediates
from passes.quantize_weights import QuantizeWeights
from tests.passes.small import apply, model, normal, ops

Array = np.ndarray[Any, Any]
EVERY: tuple[Optimize, ...] = get_args(Optimize)
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


def everywhere(target: ir.Model, **feeds: Array) -> list[Array]:
    """The outputs, which are equal at every level of optimization."""
    found = {level: run(session(target, optimize=level), feeds) for level in EVERY}
    for level in EVERY:
        for got, want in zip(found[level], found["disabled"], strict=True):
            np.testing.assert_array_equal(got, want, err_msg=level)
    return found["disabled"]


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
    assert {"QGemm": 1, "MatMulIntegerToFloat": 1}.items() <= ops(target).items()
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
    assert ops(target).get("Reshape", 0) == (0 if dims == "n" else 2)


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


def lowered(one: Pass, scales: tuple[float, int, float, int], body: str) -> tuple[ir.Model, Array]:
    target = model(FUNCTIONS % (*scales, body))
    assert len(apply(one, target).sites) == 1
    apply(LowerCodes(), target)
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


@pytest.mark.parametrize("kind", ["uint8", "int16", "int32"])
@pytest.mark.parametrize("op", ["LayerNormalization", "RMSNormalization"])
def test_normalizations(op: str, kind: str) -> None:
    """The float operator gives the codes nearest to the exact result; the portable form stays if it is asked for."""
    low, high, zero = {"uint8": (0, 256, 100), "int16": (-30000, 30000, 0), "int32": (-(10**6), 10**6, 0)}[kind]
    text = f"""g ({kind}[n,32] q) => (uint8[n,32] p)
        <float s = {{0.002}}, {kind} z = {{{zero}}}, float t = {{0.02}}, uint8 u = {{120}}> {{
        d = DequantizeLinear (q, s{", z" if zero else ""})  g = {op} (d, m{", b" if op[0] == "L" else ""})
        p = QuantizeLinear (g, t, u) }}"""
    gamma, beta = normal(32, seed=1), normal(32, seed=2)
    q = np.random.default_rng(0).integers(low, high, (7, 32)).astype(kind)
    target = model(text, m=gamma, b=beta) if op[0] == "L" else model(text, m=gamma)
    assert len(apply(IntegerLayerNorm(), target).sites) == 1
    assert not apply(LowerCodes(norms="integer"), target).sites
    (portable,) = everywhere(target, q=q)
    assert len(apply(LowerCodes(), target).sites) == 1
    assert ops(target) == {"DequantizeLinear": 1, op: 1, "QuantizeLinear": 1}
    (got,) = everywhere(target, q=q)
    x = (q.astype(np.float64) - zero) * 0.002
    x -= x.mean(-1, keepdims=True) if op[0] == "L" else 0
    exact = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * gamma + (beta if op[0] == "L" else 0)
    assert np.abs(got - np.clip(exact / 0.02 + 120, 0, 255)).max() < 0.501
    assert np.abs(got.astype(int) - portable).max() <= 1


ATTENTION = """g (int64[n,s] input_ids, bool[n,1,s,s] mask) => (float[n,s,32] y) {
    e = Gather (table, input_ids)  q = MatMul (e, a)  k = MatMul (e, b)  v = MatMul (e, c)
    x = Attention <q_num_heads = 4, kv_num_heads = 4%s> (q, k, v%s)  y = Neg (x) }"""
PROJECTIONS = {name: normal(32, 32, seed=seed, scale=0.3) for seed, name in enumerate("abc")}
IDS = np.random.default_rng(0).integers(0, 40, (3, 9))
KEEP = np.broadcast_to(np.arange(9) < np.array([9, 5, 7])[:, None, None, None], (3, 1, 9, 9)).copy()


def attended(causal: bool = False, mask: bool = True, **more: float) -> ir.Model:
    scale = "".join(f", {name} = {value}" for name, value in more.items())
    text = ATTENTION % (", is_causal = 1" * causal + scale, ", mask" * mask)
    target = model(text, table=normal(40, 32, seed=5), **PROJECTIONS)
    for one in (Calibrate(samples=32, sequence=9), QuantizeIntermediates(), IntegerAttention()):
        assert apply(one, target).modified or isinstance(one, Calibrate)
    return target


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", [False, True])
def test_attention_with_scores_of_bytes(causal: bool, mask: bool) -> None:
    target = attended(causal, mask)
    portable = run(session(target, optimize="disabled"), {"input_ids": IDS, "mask": KEEP})[0]
    (site,) = [site for site in apply(LowerCodes(), target).sites if "Attention" in site.before[0]]
    assert site.note and "IntegerMaskedAttentionOrtCpu" in ops(target)
    (got,) = everywhere(target, input_ids=IDS, mask=KEEP)
    kept = KEEP[:, 0, 0] if mask else np.ones((3, 9), bool)
    error, size = np.square(got - portable)[kept].mean(), np.square(portable)[kept].mean()
    assert 10 * np.log10(size / error) > 25


def test_masked_keys_and_other_sequences_have_no_influence() -> None:
    target = attended()
    apply(LowerCodes(), target)
    (whole,) = everywhere(target, input_ids=IDS, mask=KEEP)
    (alone,) = everywhere(target, input_ids=IDS[1:2, :5], mask=KEEP[1:2, :, :5, :5])
    np.testing.assert_array_equal(alone[0], whole[1, :5])


def test_rows_that_see_nothing_give_zeros() -> None:
    keep = KEEP.copy()
    keep[0, 0, 3] = False
    target = attended()
    apply(LowerCodes(), target)
    (got,) = everywhere(target, input_ids=IDS, mask=keep)
    assert not got[0, 3].any() and np.abs(got[0, 4]).max() > 0.1


def test_scores_that_bytes_do_not_hold_stay_portable() -> None:
    target = attended(scale=40.0)
    assert not [site for site in apply(LowerCodes(), target).sites if "Attention" in site.before[0]]
    assert "IntegerMaskedAttention" in ops(target)


@pytest.mark.parametrize(("least", "greatest"), [(-1.0, 1.0), (0.0, 0.0), (3.0, 12.0), (-9.0, -2.0), (-20.0, 20.0)])
def test_scales_of_scores(least: float, greatest: float) -> None:
    found = score_scale(Scores(least, greatest))
    assert found is not None
    scale, zero = found
    assert 0.05 <= scale <= 0.31 and 0 <= zero <= 255
    assert (zero + least / scale) * scale >= RANGE - 1e-5 and (255 - zero - greatest / scale) * scale >= HIGHEST - scale


def test_scales_of_scores_that_do_not_fit() -> None:
    assert score_scale(Scores(-200.0, 200.0)) is None and score_scale(Scores(np.inf, -np.inf)) is None


def test_activations_per_token_and_float_weights_are_left_to_others() -> None:
    text = "g (float[n,64] x) => (float[n,32] y, float[n,32] z) { h = Neg (x)  y = MatMul (h, w)  z = MatMul (h, v) }"
    target = model(text, w=normal(64, 32), v=normal(64, 32, seed=1))
    for one in (QuantizeWeights(keep=("v",)), QuantizeActivations()):
        apply(one, target)
    before = ops(target)
    assert not apply(LowerCodes(), target).sites and ops(target) == before
