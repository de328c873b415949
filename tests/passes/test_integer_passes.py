"""The integer passes put kernels in the right place: what runs equals the references on the codes, at every level."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.base import Applied, Pass
from bct_onnx.forms.residual import STREAM_BITS
from bct_onnx.graph import tensors
from bct_onnx.integer import KERNELS, lookup
from bct_onnx.runtime.statistics import KEY
from passes.calibrate import Calibrate
from passes.integer_add import IntegerAdd
from passes.integer_attention import IntegerAttention
from passes.integer_gelu import IntegerGelu
from passes.integer_layer_norm import IntegerLayerNorm
from passes.integer_sigmoid import IntegerSigmoid
from passes.integer_softmax import IntegerSoftmax
from passes.quantize_intermediates import QuantizeIntermediates
from tests.passes.small import apply, everywhere, model, normal, ops, outputs

Array = np.ndarray[Any, Any]
S, Z, T, U = np.float32(0.05), np.uint8(140), np.float32(0.031), np.uint8(77)
CODES = np.arange(256, dtype=np.uint8).reshape(4, 64)
QUANTIZED = f"""g (uint8[n,k] q) => (uint8[n,k] p, float[n,k] back)
    <float s = {{{S}}}, uint8 z = {{{Z}}}, float t = {{{T}}}, uint8 u = {{{U}}}> {{
    d = DequantizeLinear (q, s, z)  %s  p = QuantizeLinear (g, t, u)  back = DequantizeLinear (p, t, u) }}"""


def reference(name: str, *inputs: Array | np.generic | float) -> Array:
    found: Array = KERNELS[name].reference(*(np.asarray(value) for value in inputs))
    return found


def put(one: Pass, text: str, **arrays: Array) -> ir.Model:
    target = model(text, **arrays)
    applied = apply(one, target)
    assert len(applied.sites) == 1 and not applied.declined
    return target


FUNCTIONS: list[tuple[Pass, str, str]] = [
    (IntegerGelu(), "g = Gelu (d)", "IntegerGelu"),
    (IntegerGelu("sigmoid"), "g = Gelu (d)", "IntegerSigmoidGelu"),
    (IntegerSigmoid(), "g = Sigmoid (d)", "IntegerSigmoid"),
    (IntegerSigmoid(), "g = Tanh (d)", "IntegerTanh"),
    (IntegerSigmoid(), "h = Sigmoid (d)  g = Mul (d, h)", "IntegerSilu"),
    (IntegerSoftmax(), "g = Softmax (d)", "IntegerSoftmax"),
    (IntegerSoftmax("shift"), "g = Softmax (d)", "IntegerShiftSoftmax"),
]
TABLES: list[tuple[Pass, str, str]] = [
    (IntegerGelu("table"), "g = Gelu (d)", "Gelu"),
    (IntegerGelu("table"), 'g = Gelu <approximate = "tanh"> (d)', "GeluTanh"),
    (IntegerSigmoid("table"), "g = Sigmoid (d)", "Sigmoid"),
    (IntegerSigmoid("table"), "g = Tanh (d)", "Tanh"),
    (IntegerSigmoid("table"), "h = Sigmoid (d)  g = Mul (h, d)", "Silu"),
]


@pytest.mark.parametrize(("one", "body", "name"), FUNCTIONS, ids=lambda part: part if isinstance(part, str) else None)
def test_functions_of_every_code(one: Pass, body: str, name: str) -> None:
    target = put(one, QUANTIZED % body)
    assert [node.op_type for node in target.graph] == [name, "DequantizeLinear"]
    codes, back = everywhere(target, q=CODES)
    np.testing.assert_array_equal(codes, reference(name, CODES, S, Z, T, U))
    np.testing.assert_array_equal(back, (codes.astype(np.int32) - int(U)).astype(np.float32) * T)


@pytest.mark.parametrize(("one", "body", "name"), TABLES, ids=lambda part: part if isinstance(part, str) else None)
def test_tables_of_every_code(one: Pass, body: str, name: str) -> None:
    codes, _ = everywhere(put(one, QUANTIZED % body), q=CODES)
    real = lookup.FUNCTIONS[name]((CODES.astype(np.float64) - float(Z)) * float(S))
    np.testing.assert_array_equal(codes, np.clip(np.rint(real / float(T)) + float(U), 0, 255))


@pytest.mark.parametrize("kind", ["uint8", "int16", "int32"])
@pytest.mark.parametrize("op", ["LayerNormalization", "RMSNormalization"])
@pytest.mark.parametrize("bias", [False, True])
def test_normalizations(op: str, bias: bool, kind: str) -> None:
    if op == "RMSNormalization" and bias:
        op, extra = "LayerNormalization <epsilon = 0.01>", ", b"
    else:
        extra = ", b" if bias else ""
    zero = "" if kind == "int32" else ", z"
    text = f"""g ({kind}[n,s,32] q) => (uint8[n,s,32] p)
        <float s = {{0.002}}, {kind} z = {{{100 if kind == "uint8" else 0}}}, float t = {{{T}}}, uint8 u = {{{U}}}> {{
        d = DequantizeLinear (q, s{zero})  g = {op} (d, m{extra})  p = QuantizeLinear (g, t, u) }}"""
    gamma, beta = normal(32, seed=1), normal(32, seed=2)
    rng, top = np.random.default_rng(0), {"uint8": 255, "int16": 30000, "int32": 4_000_000}[kind]
    q = rng.integers(0 if kind == "uint8" else -top, top, (3, 5, 32)).astype(kind)
    q[1, 1] = 100 if kind == "uint8" else 0
    (got,) = everywhere(put(IntegerLayerNorm(), text, m=gamma, b=beta), q=q)
    scale, epsilon = np.float32(0.002), np.float32(0.01 if "epsilon" in op else 1e-5)
    if op.startswith("RMS"):
        zero_point = np.array(100 if kind == "uint8" else 0, kind)
        want = reference("IntegerRMSNorm", q, scale, zero_point, gamma, epsilon, T, U)
    else:
        want = reference("IntegerLayerNorm", q, scale, gamma, beta if bias else 0 * beta, epsilon, T, U)
    np.testing.assert_array_equal(got, want)


def test_heads_are_normalized_in_four_dimensions() -> None:
    text = f"""g (uint8[n,s,4,8] q) => (uint8[n,s,4,8] p) <float s = {{0.05}}, uint8 z = {{140}}, float t = {{{T}}},
        uint8 u = {{{U}}}> {{
        d = DequantizeLinear (q, s, z)  g = RMSNormalization (d, m)  p = QuantizeLinear (g, t, u) }}"""
    q, gamma = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 8)).astype(np.uint8), normal(8, seed=1)
    (got,) = everywhere(put(IntegerLayerNorm(), text, m=gamma), q=q)
    np.testing.assert_array_equal(got, reference("IntegerRMSNorm", q, S, Z, gamma, np.float32(1e-5), T, U))


SCALES = [(np.float32(0.02), np.uint8(120)), (np.float32(0.03), np.uint8(128)), (np.float32(0.02), np.uint8(130))]
ATTENTION = f"""g (%s) => (uint8[%s] y) <
    float s = {{{SCALES[0][0]}}}, uint8 z = {{120}}, float t = {{{SCALES[1][0]}}}, uint8 u = {{128}},
    float r = {{{SCALES[2][0]}}}, uint8 p = {{130}}, float o = {{0.011}}, uint8 w = {{125}}> {{
    b = DequantizeLinear (q, s, z)  d = DequantizeLinear (k, t, u)  f = DequantizeLinear (v, r, p)
    g = Attention %s  y = QuantizeLinear (g, o, w) }}"""
WANTED = (np.float32(0.011), np.uint8(125))


def heads(batch: int, count: int, length: int, size: int, seed: int) -> Array:
    return np.random.default_rng(seed).integers(60, 200, (batch, count, length, size)).astype(np.uint8)


def beside(value: Array) -> Array:
    """[B, H, S, D] as [B, S, H D]."""
    return value.transpose(0, 2, 1, 3).reshape(len(value), value.shape[2], -1)


def expected(q: Array, k: Array, v: Array, keep: Array | None = None, scale: float = 8**-0.5) -> Array:
    groups = q.shape[1] // k.shape[1]
    parts = zip((q, np.repeat(k, groups, 1), np.repeat(v, groups, 1)), SCALES, strict=True)
    inputs = [each for part, (step, zero) in parts for each in (part, step, zero)]
    name, kept = ("IntegerAttention", []) if keep is None else ("IntegerMaskedAttention", [keep.astype(np.uint8)])
    return reference(name, *inputs, *kept, np.float32(scale), *WANTED)


def attention(text: str, q: Array, k: Array, v: Array, **more: Array) -> Array:
    (got,) = everywhere(put(IntegerAttention(), text), q=q, k=k, v=v, **more)
    return got


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_of_merged_heads(kv_heads: int, causal: bool) -> None:
    q, k, v = heads(2, 4, 6, 8, 0), heads(2, kv_heads, 6, 8, 1), heads(2, kv_heads, 6, 16, 2)
    call = f"<q_num_heads = 4, kv_num_heads = {kv_heads}, is_causal = {int(causal)}> (b, d, f)"
    ins = f"uint8[n,s,32] q, uint8[n,s,{8 * kv_heads}] k, uint8[n,s,{16 * kv_heads}] v"
    got = attention(ATTENTION % (ins, "n,s,64", call), beside(q), beside(k), beside(v))
    keep = np.tril(np.ones((6, 6), np.uint8)) if causal else None
    np.testing.assert_array_equal(got, beside(expected(q, k, v, keep)))


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_attention_in_four_dimensions_with_a_scale(kv_heads: int) -> None:
    q, k, v = heads(2, 4, 6, 8, 0), heads(2, kv_heads, 9, 8, 1), heads(2, kv_heads, 9, 8, 2)
    ins = f"uint8[n,4,s,8] q, uint8[n,{kv_heads},t,8] k, uint8[n,{kv_heads},t,8] v"
    got = attention(ATTENTION % (ins, "n,4,s,8", "<scale = 0.1> (b, d, f)"), q, k, v)
    np.testing.assert_array_equal(got, expected(q, k, v, None, 0.1))


@pytest.mark.parametrize("additive", [False, True])
def test_masks_and_rows_without_any_key(additive: bool) -> None:
    q, k, v = heads(3, 4, 6, 8, 0), heads(3, 4, 6, 8, 1), heads(3, 4, 6, 8, 2)
    keep = np.random.default_rng(3).random((3, 1, 6, 6)) < 0.6
    keep[0] = np.arange(6) < 4
    keep[1, 0, 2] = False
    ins = "uint8[n,4,s,8] q, uint8[n,4,t,8] k, uint8[n,4,t,8] v, bool[n,1,s,t] m"
    text = ATTENTION % (ins, "n,4,s,8", "(b, d, f, a)" if additive else "(b, d, f, m)")
    if additive:
        text = text.replace("g = Att", "a = Where (m, shown, hidden)  g = Att").replace(
            "uint8 w = {125}", f"uint8 w = {{125}}, float shown = {{0}}, float hidden = {{{np.finfo(np.float32).min}}}"
        )
    got = attention(text, q, k, v, m=keep)
    np.testing.assert_array_equal(got, expected(q, k, v, keep))
    assert (got[1, :, 2] == WANTED[1]).all(), "a row that sees nothing gives zeros"
    alone = attention(text, q[:1], k[:1, :, :4], v[:1, :, :4], m=keep[:1, ..., :4])
    np.testing.assert_array_equal(alone, got[:1], "what is masked has no influence")


PRE_NORM = """g (int64[n,s] input_ids) => (float[n,s,64] y) {
    e = Gather (table, input_ids)
    h = LayerNormalization (e, m)  a = MatMul (h, w)  r = Add (e, a)
    i = LayerNormalization (r, n)  b = MatMul (i, v)  t = Add (b, r)
    k = LayerNormalization (t, n)  y = MatMul (k, w) }"""
ARRAYS = {
    "table": normal(40, 64, scale=0.3),
    "m": np.abs(normal(64, seed=1)),
    "n": np.abs(normal(64, seed=4)),
    "w": normal(64, 64, seed=2, scale=0.2),
    "v": normal(64, 64, seed=3, scale=0.2),
}
IDS = np.random.default_rng(0).integers(0, 40, (3, 7))


@pytest.mark.parametrize(
    ("one", "body", "x_step", "y_step", "reason"),
    [
        (IntegerGelu(), "g = Gelu (d)", 2e4, 2e4, "too coarse"),
        (IntegerGelu(), "g = Gelu (d)", 4.0, 1e-3, "too fine"),
        (IntegerGelu("sigmoid"), "g = Gelu (d)", 4.0, 1e-3, "too fine"),
        (IntegerSigmoid(), "h = Sigmoid (d)  g = Mul (d, h)", 4.0, 1e-3, "too fine"),
        (IntegerSigmoid(), "g = Sigmoid (d)", 4.0, 1e-5, "too fine"),
        (IntegerSigmoid(), "g = Tanh (d)", 4.0, 1e-5, "too fine"),
        (IntegerGelu("table"), "g = Gelu (d)", 2e4, 1e-5, ""),
        (IntegerSigmoid("table"), "g = Tanh (d)", 2e4, 1e-5, ""),
    ],
)
def test_functions_are_used_for_scales_that_they_are_valid_for(
    one: Pass, body: str, x_step: float, y_step: float, reason: str
) -> None:
    text = QUANTIZED.replace(f"{{{S}}}", f"{{{x_step}}}").replace(f"{{{T}}}", f"{{{y_step}}}")
    applied = one(model(text % body))
    assert isinstance(applied, Applied)
    (site,) = applied.sites
    assert not applied.declined and reason in site.note
    assert site.note.startswith("Lookup") == (bool(reason) or "table" in str(one)), "a table holds for all scales"


def test_a_side_that_others_read_keeps_its_steps() -> None:
    """A sum a million times larger would have them so coarse that nothing but 0 is left for the others."""
    target = model(
        """g (int64[n,s] input_ids) => (float[n,s,64] t) {
            e = Gather (table, input_ids)  h = Neg (e)  a = Gelu (h)  b = MatMul (a, w)
            r = Add (b, h)  t = LayerNormalization (r, m) }""",
        table=normal(40, 64), w=normal(64, 64, seed=1) * np.float32(1e7), m=np.ones(64, np.float32),
    )  # fmt: skip
    for one in (Calibrate(), QuantizeIntermediates(noise="static", around=("gelu", "residual"))):
        apply(one, target)
    before = outputs(target, input_ids=IDS)
    applied = apply(IntegerAdd(), target)
    assert not applied.sites and "finer steps" in applied.declined[0].reason
    np.testing.assert_equal(outputs(target, input_ids=IDS), before)


def streamed(text: str = PRE_NORM, **arrays: Array) -> tuple[ir.Model, list[Array], Applied]:
    target = model(text, **(ARRAYS | arrays))
    for one in (Calibrate(), QuantizeIntermediates(noise="static")):
        apply(one, target)
    before = outputs(target, input_ids=IDS)["disabled"]
    return target, before, apply(IntegerAdd(), target)


def test_a_stream_keeps_one_step_and_is_not_rounded_again() -> None:
    target, before, applied = streamed()
    assert len(applied.sites) == 2 and not applied.declined
    first, second = (node for node in target.graph if node.op_type == "IntegerAdd")
    assert first.inputs[6] is not None and second.inputs[6] is not None
    step = float(tensors.array(first.inputs[6]))
    assert step == float(tensors.array(second.inputs[6])) and np.log2(step) % 1 == 0
    assert first.outputs[0] in second.inputs and first.outputs[0].dtype == ir.DataType.INT32
    sums = [node.outputs[0] for node in target.graph if node.outputs[0].name in ("r", "t")]
    top = max(float(value.meta[KEY].max_abs.max()) for value in sums)
    assert 2**STREAM_BITS / 2 <= top / step <= 2**STREAM_BITS
    (after,) = everywhere(target, input_ids=IDS)
    np.testing.assert_allclose(after, before[0], rtol=0, atol=0.05 * np.abs(before[0]).max())


@pytest.mark.parametrize("outlier", [30.0, 300.0, 3000.0])
def test_massive_values_do_not_swallow_what_a_stream_begins_with(outlier: float) -> None:
    """A stream of 1000 and more has coarse steps: its other sides are quantized to multiples of these."""
    w = ARRAYS["w"] * np.where(np.arange(64) == 7, outlier, 1).astype(np.float32)
    n = np.where(np.arange(64) == 7, 0, outlier).astype(np.float32)
    target, before, applied = streamed(
        PRE_NORM.replace("LayerNorm", "RMSNorm"), w=w, n=n, v=ARRAYS["v"] / np.float32(outlier)
    )
    assert len(applied.sites) == 2
    (after,) = everywhere(target, input_ids=IDS)
    error, size = np.square(after - before[0]).mean(), np.square(before[0]).mean()
    assert 10 * np.log10(size / error) > 20


def test_integers_between_all_layers() -> None:
    """Norms, additions and GELU together: floats are left where weights are still float."""
    target = model(PRE_NORM.replace("b = MatMul (i, v)", "c = MatMul (i, v)  b = Gelu (c)"), **ARRAYS)
    want = outputs(target, input_ids=IDS)["disabled"][0]
    for one in (
        Calibrate(samples=32),
        QuantizeIntermediates(noise="static"),
        IntegerGelu(),
        IntegerAdd(),
        IntegerLayerNorm(),
    ):
        applied = apply(one, target)
        assert applied.sites, one
    (got,) = everywhere(target, input_ids=IDS)
    assert not {"LayerNormalization", "Gelu", "Add"} & set(ops(target))
    assert 10 * np.log10(np.square(want).mean() / np.square(want - got).mean()) > 28
    for index in range(3):
        (alone,) = everywhere(target, input_ids=IDS[index : index + 1, :4])
        np.testing.assert_array_equal(alone[0], got[index, :4])
