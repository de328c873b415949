"""Smoothing moves outliers and nothing else: the products stay what they were."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.errors import UsageError
from bct_onnx.graph import tensors
from bct_onnx.runtime.statistics import KEY
from passes.calibrate import Calibrate
from passes.quantize_activations import QuantizeActivations
from passes.quantize_weights import QuantizeWeights
from passes.smooth import Smooth
from tests.passes.small import apply, close, model, normal, ops, outputs

GAMMA = np.where(np.arange(64) == 5, 30, 1).astype(np.float32) * normal(64, seed=1)
ZEROS = np.zeros(64, np.float32)
BETA = normal(64, seed=2)
ARRAYS = {
    "table": normal(40, 64),
    "w": normal(64, 32, seed=3),
    "v": normal(64, 32, seed=4),
    "gamma": GAMMA,
    "beta": BETA,
}
FOLDED = """g (int64[n,s] input_ids) => (float[n,s,32] y, float[n,s,32] z) {
    e = Gather (table, input_ids)  h = LayerNormalization (e, gamma, beta)  y = MatMul (h, w)  z = MatMul (h, v) }"""
DEFAULT = Smooth()
RESIDUAL = """g (int64[n,s] input_ids) => (float[n,s,32] y, float[n,s,64] z) {
    e = Gather (table, input_ids)  h = LayerNormalization (e, gamma, beta)  y = MatMul (h, w)  z = Add (h, e) }"""
IDS = np.random.default_rng(0).integers(0, 40, (3, 7))


def smoothed(text: str, one: Smooth = DEFAULT, **arrays: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> ir.Model:
    target = model(text, **(ARRAYS | arrays))
    apply(Calibrate(), target)
    apply(one, target)
    return target


@pytest.mark.parametrize(("text", "muls"), [(FOLDED, 0), (RESIDUAL, 1)], ids=["folded", "one Mul"])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_outputs_stay(text: str, muls: int, strength: float) -> None:
    want = outputs(model(text, **ARRAYS), input_ids=IDS)["disabled"]
    target = smoothed(text, Smooth(strength))
    assert ops(target).get("Mul", 0) == muls
    for values in outputs(target, input_ids=IDS).values():
        for got, expected in zip(values, want, strict=True):
            close(got, expected, 1e-5)


def test_outliers_are_moved_into_the_weight() -> None:
    target = smoothed(RESIDUAL, Smooth(1.0))
    weight = tensors.array(target.graph.initializers["w"])
    factors = weight[:, 0] / ARRAYS["w"][:, 0]
    assert factors.argmax() == 5 and factors.max() > 10 and factors.min() == pytest.approx(1)
    (mul,) = (node for node in target.graph if node.op_type == "Mul")
    assert mul.inputs[0] is not None
    whole, divided = mul.outputs[0].meta[KEY].max_abs, mul.inputs[0].meta[KEY].max_abs
    assert divided.argmax() != 5 and divided.max() == pytest.approx(np.median(whole))
    np.testing.assert_allclose(whole, divided * factors, rtol=1e-6)


OUTPUT = """g (int64[n,s] input_ids) => (float[n,s,64] h, float[n,s,32] y) {
    e = Gather (table, input_ids)  h = LayerNormalization (e, gamma, beta)  y = MatMul (h, w) }"""
USED = """g (int64[n,s] input_ids) => (float[n,s,32] y, float[n,s,64] z, float[n,s,s] a) {
    e = Gather (table, input_ids)  h = LayerNormalization (e, gamma, beta)  y = MatMul (h, w)
    t = Transpose <perm = [0, 2, 1]> (h)  z = Add (h, h)  a = MatMul (h, t) }"""
BRANCH = """g (int64[n,s] input_ids, bool c) => (float[n,s,32] y, float[n,s,64] z) {
    e = Gather (table, input_ids)  h = LayerNormalization (e, gamma, beta)  y = MatMul (h, w)
    z = If (c) <then_branch = t () => (float[n,s,64] u) { u = Neg (h) },
                else_branch = f () => (float[n,s,64] o) { o = Abs (h) }> }"""


@pytest.mark.parametrize("text", [OUTPUT, USED, BRANCH], ids=["an output", "other operators", "a subgraph"])
def test_other_users_see_what_was_there_before(text: str) -> None:
    feeds = {"input_ids": IDS} | ({"c": np.array(True)} if text is BRANCH else {})
    source = model(text, **ARRAYS)
    want = outputs(source, **feeds)["disabled"]
    target = smoothed(text)
    assert ops(target)["Mul"] == 1
    assert [value.name for value in target.graph.outputs] == [value.name for value in source.graph.outputs]
    for values in outputs(target, **feeds).values():
        for got, expected in zip(values, want, strict=True):
            close(got, expected, 1e-5)
    factors = tensors.array(target.graph.initializers["w"])[:, 0] / ARRAYS["w"][:, 0]
    assert factors.max() > 3, "the weight was scaled"


def test_a_scale_that_is_computed_costs_a_mul_before_the_products() -> None:
    text = FOLDED.replace("h = Layer", "k = Neg (gamma)  h = Layer").replace("(e, gamma", "(e, k")
    want = outputs(model(text, **ARRAYS), input_ids=IDS)["disabled"]
    target = smoothed(text)
    assert ops(target)["Mul"] == 1
    for values in outputs(target, input_ids=IDS).values():
        for got, expected in zip(values, want, strict=True):
            close(got, expected, 1e-5)


def test_smoothing_lowers_the_error_of_int8_activations() -> None:
    want = outputs(model(FOLDED, **ARRAYS), input_ids=IDS)["disabled"][0]
    errors = []
    for passes in ((), (Calibrate(), Smooth())):
        target = model(FOLDED, **ARRAYS)
        for one in (*passes, QuantizeWeights(bits=8), QuantizeActivations()):
            apply(one, target)
        errors.append(float(np.abs(outputs(target, input_ids=IDS)["disabled"][0] - want).mean()))
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize(
    ("text", "arrays", "reason"),
    [
        (FOLDED, {"gamma": np.ones(64, np.float32), "beta": ZEROS}, "no outlier channels"),
        (FOLDED, {"gamma": np.where(np.arange(64) < 40, ZEROS, GAMMA), "beta": ZEROS}, "half of the channels"),
        (FOLDED.replace("(h, v)", "(e, w)"), {}, "a weight is shared"),
    ],
)  # fmt: skip
def test_refusals(text: str, arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]], reason: str) -> None:
    target = model(text, **(ARRAYS | arrays))
    apply(Calibrate(), target)
    applied = apply(Smooth(), target)
    assert not applied.sites and any(reason in one.reason for one in applied.declined)


def test_a_weight_used_twice_by_one_normalization_is_scaled_once_or_not_at_all() -> None:
    text = FOLDED.replace("(h, v)", "(h, w)")
    want = outputs(model(text, **ARRAYS), input_ids=IDS)["disabled"]
    for got, expected in zip(outputs(smoothed(text), input_ids=IDS)["all"], want, strict=True):
        close(got, expected, 1e-5)


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_strength_is_a_share(strength: float) -> None:
    with pytest.raises(UsageError, match="strength"):
        Smooth(strength)
