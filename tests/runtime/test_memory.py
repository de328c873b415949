from pathlib import Path

import numpy as np
import onnx
import pytest

from bct_onnx.errors import TargetError
from bct_onnx.runtime.memory import measure_memory


def large(path: Path) -> Path:
    """A table of 32 MB, and ten rows of it."""
    text = """<ir_version: 9, opset_import: ["" : 18]>
        g (int64[n] ids) => (float[n, 1024] y) { y = Gather (table, ids) }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((8192, 1024), np.float32), "table"))
    onnx.save(model, path)
    return path


def test_weights_are_counted(tmp_path: Path) -> None:
    found = measure_memory(large(tmp_path / "model.onnx"), {"ids": np.arange(10)})
    assert 32e6 < found.loaded < 110e6 and found.peak_load >= 32e6 and found.peak_run > 32e6
    assert 30e6 < found.in_use < found.loaded + 5e6


def test_a_model_that_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(TargetError, match="could not be measured"):
        measure_memory(tmp_path / "model.onnx", {})
