"""A model to compress and a place for the result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.graph import handmade


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A matrix large enough to be quantized, in a folder of its own."""
    folder = tmp_path / "in"
    folder.mkdir()
    weight = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    text = """<ir_version: 10, opset_import: ["" : 21], producer_name: "maker", model_version: 7, doc_string: "about">
        net (float[batch, tokens, 64] x) => (float[batch, tokens, 32] y) { y = MatMul (x, w) }"""
    proto = handmade.model(text, w=weight)
    onnx.helper.set_model_props(proto, {"license": "CC0"})
    return handmade.write(proto, folder / "model.onnx")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A place for the result, in a folder of its own."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "model.bct.onnx"
