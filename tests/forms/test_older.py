"""Operators written in others are what the newest runtime makes of them, at the edges too."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.forms import older
from bct_onnx.graph import provenance
from bct_onnx.runtime.session import run, session
from passes.guard_attention import GuardAttention
from tests.passes.small import model

ATTENTION = """g (float[n,s,8] q, float[n,t,8] k, float[n,t,8] v, bool[n,1,s,t] m) => (float[n,s,8] y) {
    y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v, m) }"""


def _attention(target: ir.Model) -> ir.Node:
    return next(node for node in target.graph if node.op_type == "Attention")


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.since("1.32", "older ones give NaN or a mean where nothing is seen")
def test_attention_that_sees_nothing_gives_zeros(guarded: bool) -> None:
    target = model(ATTENTION)
    feeds = {name: np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32) for name in "qkv"}
    feeds["m"] = np.array([[[[0, 0, 0], [1, 0, 1], [1, 1, 1]]], [[[0, 0, 0]] * 3]], bool)
    (before,) = run(session(target), feeds)
    if guarded:
        GuardAttention()(target)
    with provenance.stamping(target, "older"):
        assert older.attention(target, _attention(target)) == ""
    (after,) = run(session(target), feeds)
    np.testing.assert_allclose(after, before, atol=1e-6)
    assert not after[1].any() and sum(node.op_type == "ReduceMax" for node in target.graph) == 1


def test_a_mask_of_bfloat16_scores_is_written() -> None:
    target = model(ATTENTION.replace("float[", "bfloat16["))
    assert older.attention(target, _attention(target)) == ""
    assert any(node.op_type == "Softmax" for node in target.graph)
