"""Convolutions, recurrent cells and positions in 8 bits: at what cost, decoded when loaded, counted as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bct_onnx.graph.inventory import inventory
from bct_onnx.graph.tensors import Array
from bct_onnx.quant.runs import coded
from passes.quantize_parameters import WORST_DB, QuantizeParameters
from tests.passes.small import apply, model, normal, ops, optimized

CONVOLUTION = "g (float[n,24,t] x) => (float[n,16,t] y) { y = Conv <pads = [1, 1]> (x, w) }"


def outlier(factor: float) -> Array:
    """Rows with a value that is so many times as large as the others usually are."""
    weight = normal(16, 240, 3)
    weight[:, 3, 1] = factor
    return weight


@pytest.mark.parametrize(("factor", "holds"), [(3, True), (60, True), (np.inf, False), (np.nan, False)])
def test_what_8_bits_do_not_hold_stays(factor: float, holds: bool) -> None:
    target = model(CONVOLUTION.replace("24", "240"), w=outlier(factor))
    result = apply(QuantizeParameters(), target)
    if holds:
        (site,) = result.sites
        assert site.error is not None and site.error.sqnr_db > WORST_DB
    else:
        assert [declined.reason for declined in result.declined] == ["8 bits do not hold its values"]
        assert ops(target) == {"Conv": 1}


def test_what_is_stored_keeps_its_name_and_kind() -> None:
    text = """g (float[20,n,64] x) => (float[20,d,n,32] y) {
        turned = Transpose <perm = [1, 0, 2]> (x)
        placed = Add (turned, p)
        back = Transpose <perm = [1, 0, 2]> (placed)
        y, h, c = LSTM <hidden_size = 32> (back, w, r) }"""
    target = model(text, p=normal(20, 64), w=normal(1, 128, 64), r=normal(1, 128, 32))
    before = inventory(target)
    apply(QuantizeParameters(), target)
    after = inventory(target)
    kinds = {weight.name: (weight.kind, weight.dtype) for weight in after.weights}
    assert {name: kinds[name] for name in "pwr"} == {
        "p": ("bias", "INT8"),
        "w": ("recurrence", "INT8"),
        "r": ("recurrence", "INT8"),
    }
    assert {kinds[f"{name}.scale"] for name in "pwr"} == {("scale", "FLOAT16")}
    assert after.parameters == before.parameters and after.nbytes < 0.3 * before.nbytes
    assert after.float_weights_left({}) == []


def test_the_budget_is_no_less_than_what_is_stored() -> None:
    target = model(CONVOLUTION, w=normal(16, 24, 3))
    (weight,) = inventory(target).weights
    budget = QuantizeParameters().float_bytes(weight)
    apply(QuantizeParameters(), target)
    assert inventory(target).nbytes <= budget < weight.nbytes / 2


def test_the_runtime_decodes_it_once(tmp_path: Path) -> None:
    target = model(CONVOLUTION, w=normal(16, 24, 3))
    apply(QuantizeParameters(), target)
    assert {node.op_type for node in optimized(target, tmp_path).graph.node} <= {
        "Conv",
        "ReorderInput",
        "ReorderOutput",
    }


def test_a_weight_of_two_branches_is_stored_once() -> None:
    text = """g (float[n,24,t] x, bool c) => (float[n,16,t] y) { y = If (c) <
        then_branch = one () => (float[n,16,t] a) { a = Conv <pads = [1, 1]> (x, w) },
        else_branch = two () => (float[n,16,t] b) { d = Neg (x)  b = Conv <pads = [1, 1]> (d, w) }> }"""
    target = model(text, w=normal(16, 24, 3))
    result = apply(QuantizeParameters(), target)
    assert [site.name for site in result.sites] == ["w"]
    assert ops(target)["Mul"] == 1


def test_error_is_of_the_whole_tensor() -> None:
    weight = normal(16, 24, 3, seed=3)
    result = apply(QuantizeParameters(), model(CONVOLUTION, w=weight))
    assert result.sites[0].error == coded(weight, 36).error
