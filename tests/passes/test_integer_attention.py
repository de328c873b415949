"""Queries that a mask of finite numbers leaves without a key get what the softmax gives them, not zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.base import Applied
from bct_onnx.forms.kept_keys import may_hide_a_row
from bct_onnx.runtime.session import run, session
from passes.integer_attention import COARSE, IntegerAttention
from passes.lower_attention import LowerAttention
from tests.passes.small import apply, everywhere, model, ops

Array = np.ndarray[Any, Any]
TOKENS = 9
KEPT = (np.arange(TOKENS) < np.array([[9], [5], [3]])).astype(np.int64)
"""Padding behind three texts: a window of three leaves the last queries of two of them without a key."""

ATTENTION = """g (uint8[n,s,32] q, uint8[n,s,32] k, uint8[n,s,32] v, int64[n,s] attention_mask) => (float[n,s,32] y)
  <float s = {0.03}, uint8 z = {128}, float o = {0.02}, int64[2] rows = {1, 2}, int64[1] column = {1},
   int64[1] row = {0}, int64 none = {0}, int64 one = {1}, int64 three = {3}, float shown = {0},
   float padded = {%s}, float far = {%s}> {
    b = DequantizeLinear (q, s, z)  d = DequantizeLinear (k, s, z)  f = DequantizeLinear (v, s, z)
    kept = Cast <to = 9> (attention_mask)  wide = Unsqueeze (kept, rows)  padding = Where (wide, shown, padded)
    shape = Shape (q)  count = Gather (shape, one)  at = Range (none, count, one)
    i = Unsqueeze (at, column)  j = Unsqueeze (at, row)  back = Sub (i, j)
    near = Less (back, three)  behind = GreaterOrEqual (back, none)  seen = And (near, behind)
    window = Where (seen, shown, far)  both = Add (padding, window)
    %s
    g = Attention <q_num_heads = 4, kv_num_heads = 4> (b, d, f, mask)
    h = QuantizeLinear (g, o, z)  y = DequantizeLinear (h, o, z) }"""
BOTH = "low = Constant <value_float = -3.0625412e+38> ()  mask = Max (both, low)"
"""As fuse-attention adds masks up."""


LOWS = [-1e4, -1e5, -1e6, -1e9, -1e12, -3e38]


def attention(padded: float, far: float, mask: str = BOTH) -> ir.Model:
    return model(ATTENTION % (padded, far, mask))


def feeds() -> dict[str, Array]:
    rng = np.random.default_rng(5)
    heads = {name: rng.integers(0, 256, (3, TOKENS, 32)).astype(np.uint8) for name in "qkv"}
    return {**heads, "attention_mask": KEPT}


def replaced(target: ir.Model) -> ir.Model:
    applied = IntegerAttention()(target)
    assert isinstance(applied, Applied) and applied.sites, applied
    return target


@pytest.mark.parametrize("padded", LOWS)
@pytest.mark.parametrize("far", LOWS)
def test_queries_without_a_key_see_those_that_are_hidden_least(padded: float, far: float) -> None:
    (expected,) = run(session(attention(padded, far), optimize="disabled"), feeds())
    (found,) = everywhere(replaced(attention(padded, far)), **feeds())
    lost = np.array([[query - 2 > length - 1 for query in range(TOKENS)] for length in KEPT.sum(1)])
    assert lost.sum() == 6 and np.abs(expected[lost]).mean() > 0.3
    assert np.abs(found - expected)[~lost].max() < 0.1
    assert np.abs(found - expected)[lost].max() < 0.1


@pytest.mark.parametrize("low", [-(2.0**21), -1e7, -1e8])
def test_scores_in_coarse_steps_are_declined(low: float) -> None:
    (refusal,) = apply(IntegerAttention(), attention(low, -1e9)).declined
    assert refusal.reason == COARSE
    assert apply(IntegerAttention(), attention(low, -1e9, "mask = Identity (padding)")).sites


def test_the_operator_between_floats_takes_the_mask_and_the_queries_as_they_were() -> None:
    expected = replaced(attention(-1e4, -1e9, "mask = Identity (padding)"))
    found = replaced(attention(-1e4, -1e9))
    assert ops(found)["Where"] == ops(expected)["Where"] + 1
    for target in (expected, found):
        LowerAttention()(target)
    assert ops(found)["Where"] == ops(expected)["Where"] and "ReduceMax" not in ops(found)


@pytest.mark.parametrize(("mask", "may"), [("padding", False), ("window", False), ("both", True)])
def test_only_what_depends_on_queries_and_on_inputs_can_hide_a_row(mask: str, may: bool) -> None:
    target = attention(-1e4, -1e9, f"mask = Identity ({mask})")
    masks = {value.name: value for node in target.graph for value in node.outputs}
    assert may_hide_a_row(masks[mask]) is may
    assert ("ReduceMax" in ops(replaced(target))) is may
