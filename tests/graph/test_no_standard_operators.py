"""A model of nothing but ONNX Runtime's own operators states no version of ONNX's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.session import run, session
from tests.graph import handmade

TEXT = """<ir_version: 10, opset_import: ["com.microsoft" : 1]>
    g (float[n,s,8] x, float[n,s,8] skip) => (float[n,s,8] y) {
        y = com.microsoft.SkipSimplifiedLayerNormalization <epsilon = 1e-5> (x, skip, gamma) }"""


def test_standard_operators_are_written_into_it(tmp_path: Path) -> None:
    gamma = np.linspace(0.5, 1.5, 8, dtype=np.float32)
    source = handmade.write(handmade.model(TEXT, gamma=gamma), tmp_path / "in.onnx")
    out = tmp_path / "out.onnx"
    rewrite(source, "normalize,lift-contrib", options=Options(out))
    feeds = {name: np.random.default_rng(3).standard_normal((2, 3, 8)).astype(np.float32) for name in ("x", "skip")}
    (before,), (after,) = run(session(source), feeds), run(session(out), feeds)
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_functions_of_a_model_that_states_no_version_are_put_into_it(tmp_path: Path) -> None:
    """Its own calls need ONNX's operators as little as those of ONNX Runtime; what they stand for does."""
    text = """<ir_version: 10, opset_import: ["local" : 1]> g (float[n,8] x) => (float[n,8] y) { y = local.act (x) }
        <domain: "local", opset_import: ["" : 21]> act (a) => (b) { b = Elu (a) }"""
    source = handmade.write(handmade.model(text), tmp_path / "in.onnx")
    rewrite(source, "lower-portable", target="portable", options=Options(tmp_path / "out.onnx"))
    x = {"x": np.random.default_rng(3).standard_normal((2, 8)).astype(np.float32)}
    (before,), (after,) = run(session(source), x), run(session(tmp_path / "out.onnx"), x)
    np.testing.assert_array_equal(after, before)
