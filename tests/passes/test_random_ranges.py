"""Ranges that random signals gave decide nothing; those of random tokens do, but for scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx import registry
from bct_onnx.forms import codes, weights
from bct_onnx.forms.ranges import NOISE, SCORES_OF_NOISE
from bct_onnx.graph.signals import signals
from bct_onnx.runtime.session import run, session
from bct_onnx.runtime.statistics import ChannelStatistics
from passes.calibrate import Calibrate
from passes.integer_attention import IntegerAttention
from passes.integer_softmax import IntegerSoftmax
from passes.lower_attention import LowerAttention
from passes.quantize_activations import QuantizeActivations
from passes.quantize_dataflow import QuantizeDataflow
from passes.quantize_intermediates import OWN_GATE, TOO_COARSE, QuantizeIntermediates
from passes.quantize_weights import QuantizeWeights
from tests.passes.small import apply, model, normal, ops

SMOOTHED = """g (float[n,4,t] x) => (float[n,t,32] y) <float[4,1,5] k = {%s}> {
    c = Conv <group = 4, pads = [2, 2]> (x, k)  h = Transpose <perm = [0, 2, 1]> (c)
    m = MatMul (h, v)  r = Relu (m)  g = Gelu (m)  a = Add (r, g)  l = MatMul (a, w)  y = Neg (l) }"""
KERNEL = ", ".join(["0.2"] * 20)
TOKENS = """g (int64[n,s] input_ids) => (float[n,s,32] y) {
    e = Gather (table, input_ids)  m = MatMul (e, u)  g = Gelu (m)  l = MatMul (g, w)  z = Softmax <axis = -1> (l)
    y = Neg (z) }"""
ARRAYS = {"v": normal(4, 64), "w": normal(64, 32, seed=1, scale=0.4), "u": normal(64, 64, seed=2, scale=0.2)}
ARRAYS["table"] = normal(50, 64, seed=3)


def data(path: Path, name: str, array: np.ndarray[Any, Any]) -> Calibrate:
    arrays: dict[str, Any] = {name: array}
    np.savez(path / "data.npz", **arrays)
    return Calibrate(data=str(path / "data.npz"))


def signal(batch: int = 2, steps: int = 40) -> np.ndarray[Any, Any]:
    """Louder than samples are, and changes slowly, so that a smoothing filter keeps it."""
    slow = np.repeat(np.random.default_rng(0).standard_normal((batch, 4, steps // 8)), 8, 2)
    return (12 * slow).astype(np.float32)


def static(target: ir.Model) -> list[bool]:
    """Whether the scale of each quantized product's input is a constant."""
    products = [node for node in target.graph if node.op_type == "MatMul" and weights.read(node.inputs[1]) is not None]
    return [codes.read(node.inputs[0]) is not None for node in products]


def test_random_signals_give_scales_at_run_time_and_real_ones_constants(tmp_path: Path) -> None:
    x = signal()
    source = model(SMOOTHED % KERNEL, **ARRAYS)
    (want,) = run(session(source), {"x": x})
    errors: list[float] = []
    for calibrate, is_static in ((Calibrate(samples=16), False), (data(tmp_path, "x", signal()), True)):
        target = model(SMOOTHED % KERNEL, **ARRAYS)
        apply(calibrate, target)
        apply(QuantizeWeights(bits=8), target)
        applied = apply(QuantizeActivations(per="static"), target)
        assert is_static or any(NOISE in site.note for site in applied.sites)
        applied = apply(QuantizeIntermediates(), target)
        assert is_static == bool(applied.sites) and is_static != any(one.reason == NOISE for one in applied.declined)
        assert set(static(target)) == {is_static}
        (got,) = run(session(target, optimize="disabled"), {"x": x})
        errors.append(float(np.square(got - want).sum() / np.square(want).sum()))
    assert max(errors) < 0.01
    clipped = model(SMOOTHED % KERNEL, **ARRAYS)
    for one in (Calibrate(samples=16), QuantizeWeights(bits=8), QuantizeActivations(per="static", noise="static")):
        apply(one, clipped)
    (got,) = run(session(clipped, optimize="disabled"), {"x": x})
    assert np.square(got - want).sum() > 10 * max(errors) * np.square(want).sum(), "samples do not show the range"


def test_random_tokens_give_constants_but_no_scores() -> None:
    target = model(TOKENS, **ARRAYS)
    for one in (Calibrate(samples=16), QuantizeWeights(bits=8), QuantizeActivations(per="static")):
        apply(one, target)
    assert static(target) == [True, True]
    declined = {one.name: one.reason for one in apply(QuantizeIntermediates(), target).declined}
    assert declined["l"] == SCORES_OF_NOISE and "z" in declined
    assert ops(target)["QuantizeLinear"] == 3, "both inputs of products, and what goes into Gelu"


def test_scores_that_real_data_calibrated_are_codes(tmp_path: Path) -> None:
    target = model(TOKENS, **ARRAYS)
    apply(data(tmp_path, "input_ids", np.random.default_rng(0).integers(0, 50, (8, 9))), target)
    assert {"l", "z"} <= {site.name for site in apply(QuantizeIntermediates(), target).sites}


def test_scores_of_an_attention_in_integers_need_real_data(tmp_path: Path) -> None:
    text = """g (int64[n,s] input_ids) => (float[n,s,64] y) {
        e = Gather (table, input_ids)  k = MatMul (e, u)
        a = Attention <q_num_heads = 4, kv_num_heads = 4> (e, k, e)  y = MatMul (a, u) }"""
    ids = np.random.default_rng(0).integers(0, 50, (4, 9))
    for calibrate, operator in (
        (Calibrate(samples=16), "IntegerAttention"),
        (data(tmp_path, "input_ids", ids), "IntegerMaskedAttentionOrtCpu"),
    ):
        target = model(text, table=ARRAYS["table"] * np.float32(0.2), u=ARRAYS["u"])
        for one in (calibrate, QuantizeWeights(), QuantizeActivations("static"), QuantizeIntermediates()):
            apply(one, target)
        apply(IntegerAttention(), target)
        applied = apply(LowerAttention("integer"), target)
        assert ops(target)[operator] == 1
        assert [one.reason for one in applied.declined] == [SCORES_OF_NOISE] * (operator == "IntegerAttention")


def test_small_shares_of_a_softmax_keep_their_steps(tmp_path: Path) -> None:
    """Of 2000 classes none reaches 1/100: as codes of 0 to 1 all would be 0."""
    text = """g (int64[n,s] input_ids) => (float[n,s,32] y) {
        e = Gather (table, input_ids)  l = MatMul (e, wide)  p = Softmax <axis = -1> (l)  y = MatMul (p, narrow) }"""
    arrays = {"table": ARRAYS["table"], "wide": normal(64, 2000, scale=0.04), "narrow": normal(2000, 32, seed=1)}
    ids = np.random.default_rng(0).integers(0, 50, (4, 9))
    (want,) = run(session(model(text, **arrays)), {"input_ids": ids})
    for calibrate in (Calibrate(samples=16), data(tmp_path, "input_ids", ids)):
        target = model(text, **arrays)
        for one in (calibrate, QuantizeWeights(bits=8), QuantizeActivations(per="static"), QuantizeIntermediates()):
            apply(one, target)
        apply(IntegerSoftmax(), target)
        (got,) = run(session(target, optimize="disabled"), {"input_ids": ids})
        assert np.square(got - want).sum() < 0.01 * np.square(want).sum()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("k = Mul (a, f)  s = Sigmoid (k)  b = Mul (a, s)", OWN_GATE),
        ("k = Softplus (a)  s = Tanh (k)  b = Mul (s, a)", OWN_GATE),
        ("k = Mul (a, f)  s = Tanh (k)  t = Add (s, f)  d = Mul (a, t)  b = Mul (d, f)", OWN_GATE),
        ("s = Sigmoid (a)  b = Mul (a, s)", ""),
        ("k = MatMul (a, w)  s = Sigmoid (k)  b = Mul (a, s)", ""),
        ("k, o = Split <axis = -1, num_outputs = 2> (a)  s = Sigmoid (k)  b = Mul (o, s)", ""),
    ],
)
def test_gates_of_themselves_stay_float(tmp_path: Path, body: str, reason: str) -> None:
    text = """g (int64[n,s] input_ids) => (float[n,s,d] y) <float f = {1.702}> {
        e = Gather (table, input_ids)  a = MatMul (e, u)  %s  y = Neg (b) }"""
    arrays = {name: ARRAYS[name] for name in ("table", "u")} | ({"w": normal(64, 64)} if "w)" in body else {})
    target = model(text % body, **arrays)
    apply(data(tmp_path, "input_ids", np.random.default_rng(0).integers(0, 50, (4, 9))), target)
    applied = apply(QuantizeIntermediates(around=("sigmoid",)), target)
    assert ({one.reason for one in applied.declined} == {reason}) if reason else not applied.declined
    assert bool(applied.sites) != bool(reason)


@pytest.mark.parametrize(("offset", "taken"), [(0.0, True), (100.0, False)])
def test_what_varies_little_far_from_zero_stays_float(offset: float, taken: bool) -> None:
    target = model("g (float[n,8] x) => (float[n,8] y) { h = Neg (x)  g = Gelu (h)  y = Neg (g) }")
    low, high = np.full(8, offset - 2.0), np.full(8, offset + 2.0)
    for node in list(target.graph)[:2]:
        node.outputs[0].meta["bct_onnx.statistics"] = ChannelStatistics(low, high, (offset**2 + 1) * np.ones(8), 1)
    applied = apply(QuantizeIntermediates(), target)
    assert bool(applied.sites) == taken and (taken or applied.declined[0].reason == TOO_COARSE)


@pytest.mark.parametrize(("bits", "margin"), [("8", 1.5), ("16", 4.0)])
def test_targets_of_constant_scales_get_a_margin(bits: Any, margin: float) -> None:
    target = model("g (float[n,64] x) => (float[n,32] y) { h = Neg (x)  m = MatMul (h, w)  y = Neg (m) }", **ARRAYS)
    apply(Calibrate(samples=16), target)
    statistics = next(iter(target.graph[0].outputs)).meta["bct_onnx.statistics"]
    apply(QuantizeDataflow(bits), target)
    found = codes.read(next(node for node in target.graph if node.op_type == "MatMul").inputs[0])
    spread = float(statistics.maximum.max() - statistics.minimum.min())
    assert found is not None and found.step * (2 ** int(bits) - 1) == pytest.approx(margin * spread, rel=0.01)


@pytest.mark.parametrize(("noise", "taken"), [("float", False), ("margin", True), ("static", True)])
def test_without_scales_found_at_run_time_random_signals_leave_floats(noise: Any, taken: bool) -> None:
    target = model("g (float[n,64] x) => (float[n,32] y) { h = Neg (x)  m = MatMul (h, w)  y = Neg (m) }", **ARRAYS)
    for each in (Calibrate(samples=16), QuantizeWeights(bits=8)):
        apply(each, target)
    applied = apply(QuantizeActivations("static", noise=noise), target)
    assert bool(applied.sites) == taken
    assert taken or [declined.reason for declined in applied.declined] == [NOISE]


def test_what_a_target_cannot_do_is_not_asked_of_it() -> None:
    for target, noise in (("openvino", "float"), ("ort-cpu", "token")):
        (one,) = (one for one in registry.complete("fast", target) if isinstance(one, QuantizeActivations))
        assert one.noise == noise
    kept = registry.complete("quantize-weights,quantize-activations{per=static noise=static}", "openvino")
    assert "noise=static" in str(kept)


@pytest.mark.parametrize(
    ("inputs", "body", "wanted"),
    [
        ("float[n,8] x", "h = Neg (x)", {"h"}),
        ("uint8[n,8] x", "c = Cast <to = 1> (x)  h = Neg (c)", {"c", "h"}),
        ("int64[n,8] x", "c = Cast <to = 1> (x)  h = Neg (c)", set()),
        ("float[n,8] attention_mask", "h = Neg (attention_mask)", set()),
        ("float[n,h,p,8] past_key_values", "h = Neg (past_key_values)", set()),
        ("float[n,8] x", "s = Shape (x)  h = Cast <to = 1> (s)", set()),
        ("float[n,8] x, float[8] z", "b = Greater (x, z)  h = Cast <to = 1> (b)", set()),
        ("float[n,8] x, int64[n] i", "e = Gather (table, i)  h = Add (e, x)", {"h"}),
    ],
)
def test_what_depends_on_signals(inputs: str, body: str, wanted: set[str]) -> None:
    table = {"table": normal(5, 8)} if "table" in body else {}
    target = model(f"g ({inputs}) => (float[a] h) {{ {body} }}".replace("float[a] h", "float h"), **table)
    found = {value.name for value in signals(target)} - {value.name for value in target.graph.inputs}
    assert found == wanted
