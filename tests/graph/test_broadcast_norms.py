"""A normalization with one number for all channels runs in ONNX Runtime whatever that fuses."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.graph import tensors
from bct_onnx.runtime.session import run, session
from passes.normalize import Normalize
from tests.passes.small import model, normal


@pytest.mark.parametrize(("scale", "bias"), [((8,), (1,)), ((1,), (8,)), ((1,), (1,)), ((), ())])
def test_one_number_for_all_channels(scale: tuple[int, ...], bias: tuple[int, ...]) -> None:
    target = model(
        """g (float[n,s,8] x, float[n,s,8] r) => (float[n,s,8] y)
        { a = Add (x, r)  y = LayerNormalization (a, scale, bias) }""",
        scale=normal(*scale, seed=1) if scale else np.array(1.5, np.float32),
        bias=normal(*bias, seed=2) if bias else np.array(0.5, np.float32),
    )
    feeds = {"x": normal(2, 3, 8, seed=3), "r": normal(2, 3, 8, seed=4)}
    arrays = {name: tensors.array(value) for name, value in target.graph.initializers.items()}
    x = feeds["x"] + feeds["r"]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    want = x * arrays["scale"] + arrays["bias"]  # ONNX Runtime 1.23 refuses the model as it comes
    Normalize()(target)
    norm = next(node for node in target.graph if node.op_type == "LayerNormalization")
    assert [value.shape for value in norm.inputs[1:] if value is not None] == [ir.Shape([8])] * 2
    np.testing.assert_allclose(run(session(target), feeds)[0], want, atol=1e-5)


def test_a_bias_of_no_numbers_is_none() -> None:
    """ONNX Runtime's operator takes it so, and its fusion with the addition in front ends."""
    target = model(
        """g (float[n,s,8] x, float[n,s,8] r) => (float[n,s,8] y)
        { a = Add (x, r)  y = LayerNormalization (a, scale, bias) }""",
        scale=normal(8, seed=1),
        bias=normal(0),
    )
    feeds = {"x": normal(2, 3, 8, seed=3), "r": normal(2, 3, 8, seed=4)}
    want = run(session(target, optimize="disabled"), feeds)[0]
    Normalize()(target)
    np.testing.assert_allclose(run(session(target), feeds)[0], want, atol=1e-5)
