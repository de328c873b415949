"""Attention between codes as the runtime's operator, or in bytes: near the portable form, masked keys do nothing."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.integer.attention_ort_cpu import HIGHEST, RANGE
from bct_onnx.runtime.session import run, session
from bct_onnx.runtime.statistics import Scores
from passes.calibrate import Calibrate
from passes.integer_attention import IntegerAttention
from passes.lower_attention import LowerAttention, score_scale
from passes.quantize_intermediates import QuantizeIntermediates
from tests.passes.small import apply, everywhere, model, normal, ops

Form = Literal["float", "integer"]
forms = pytest.mark.parametrize("form", ["float", "integer"])
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
    for one in (Calibrate(samples=32, sequence=9), QuantizeIntermediates(noise="static"), IntegerAttention()):
        assert apply(one, target).modified or isinstance(one, Calibrate)
    return target


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", [False, True])
@forms
def test_agrees_with_the_portable_form(form: Form, causal: bool, mask: bool) -> None:
    target = attended(causal, mask)
    portable = run(session(target, optimize="disabled"), {"input_ids": IDS, "mask": KEEP})[0]
    (site,) = apply(LowerAttention(form, noise="static"), target).sites
    assert site.note and {"float": "Attention", "integer": "IntegerMaskedAttentionOrtCpu"}[form] in ops(target)
    assert not (form == "float" and {"Transpose", "Reshape", "Trilu"} & set(ops(target)))
    (got,) = everywhere(target, input_ids=IDS, mask=KEEP)
    kept = KEEP[:, 0, 0] if mask else np.ones((3, 9), bool)
    error, size = np.square(got - portable)[kept].mean(), np.square(portable)[kept].mean()
    assert 10 * np.log10(size / error) > 25


@forms
def test_masked_keys_and_other_sequences_have_no_influence(form: Form) -> None:
    target = attended()
    apply(LowerAttention(form, noise="static"), target)
    (whole,) = everywhere(target, input_ids=IDS, mask=KEEP)
    (alone,) = everywhere(target, input_ids=IDS[1:2, :5], mask=KEEP[1:2, :, :5, :5])
    np.testing.assert_array_equal(alone[0], whole[1, :5])


def test_rows_that_see_nothing_give_zeros() -> None:
    keep = KEEP.copy()
    keep[0, 0, 3] = False
    target = attended()
    apply(LowerAttention("integer", noise="static"), target)
    (got,) = everywhere(target, input_ids=IDS, mask=keep)
    assert not got[0, 3].any() and np.abs(got[0, 4]).max() > 0.1


def test_scores_that_bytes_do_not_hold_stay_portable() -> None:
    target = attended(scale=40.0)
    (declined,) = apply(LowerAttention("integer", noise="static"), target).declined
    assert "8 bits do not hold" in declined.reason
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
