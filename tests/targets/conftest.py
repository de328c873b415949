"""An encoder layer of a few kilobytes, with everything that targets differ in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.graph import handmade

_TEXT = """<ir_version: 10, opset_import: ["" : 23]>
net (int64[batch, sequence] input_ids) => (float[batch, sequence, 32] y) {
    x = Gather (table, input_ids)
    q = MatMul (x, wq)
    k = MatMul (x, wk)
    v = MatMul (x, wv)
    a = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v)
    o = MatMul (a, wo)
    r = Add (x, o)
    n = LayerNormalization (r, gamma, beta)
    h = MatMul (n, w1)
    g = Gelu (h)
    f = MatMul (g, w2)
    s = Add (n, f)
    y = LayerNormalization (s, gamma, beta)
}"""


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer: a table, attention, a Gelu between two products, two normalizations."""
    rng = np.random.default_rng(0)
    sizes = {"wq": (32, 32), "wk": (32, 32), "wv": (32, 32), "wo": (32, 32), "w1": (32, 64), "w2": (64, 32)}
    arrays = {name: (0.2 * rng.standard_normal(size)).astype(np.float32) for name, size in sizes.items()}
    arrays |= {"table": rng.standard_normal((96, 32)).astype(np.float32)}
    arrays |= {"gamma": np.ones(32, np.float32), "beta": np.zeros(32, np.float32)}
    return handmade.write(handmade.model(_TEXT, **arrays), tmp_path_factory.mktemp("encoder") / "model.onnx")
