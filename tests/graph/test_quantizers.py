"""Quantizations given to ONNX Runtime's operator."""

from __future__ import annotations

import numpy as np

from bct_onnx.graph import quantizers
from bct_onnx.runtime.session import run, session
from tests.passes.small import model


def test_no_tokens_give_no_codes() -> None:
    target = model("""g (float[n,s,4] x, float[n,s,1] scale, uint8[n,s,1] zero) => (uint8[n,s,4] y) {
        y = QuantizeLinear <axis = 2, block_size = 4> (x, scale, zero) }""")
    assert quantizers.respell(target, target.graph[0]) == ""
    for tokens in (3, 0):
        feeds = {"x": np.ones((2, tokens, 4), np.float32), "scale": np.ones((2, tokens, 1), np.float32)}
        (codes,) = run(session(target), feeds | {"zero": np.zeros((2, tokens, 1), np.uint8)})
        assert codes.shape == (2, tokens, 4) and (codes == 1).all()
