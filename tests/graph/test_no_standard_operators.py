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
