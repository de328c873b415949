"""One file per pass, one file of weights for all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bct_onnx.errors import UsageError
from bct_onnx.graph import load
from bct_onnx.graph.snapshots import DATA, INDEX, Snapshots
from bct_onnx.graph.tensors import array
from passes.quantize_weights import QuantizeWeights
from tests.passes.small import apply, model, normal

TEXT = "g (float[n,64] x) => (float[n,64] y) { h = MatMul (x, w)  y = MatMul (h, v) }"


def test_a_weight_is_written_once(tmp_path: Path) -> None:
    target = model(TEXT, w=normal(64, 64), v=normal(64, 64, seed=1))
    with Snapshots(tmp_path / "kept") as snapshots:
        snapshots.add(target, "input", "as it came")
        snapshots.add(target, "same", "nothing to do")
        apply(QuantizeWeights(keep=("v",)), target)
        snapshots.add(target, "quantized", "1 changed")
    files = sorted((tmp_path / "kept").iterdir())
    assert [file.name for file in files] == ["00-input.onnx", "02-quantized.onnx", INDEX, DATA]
    assert 2 * 16384 + 2048 <= files[-1].stat().st_size < 2 * 16384 + 3 * 4096
    assert all(file.stat().st_size < 8000 for file in files[:-1])
    for file in files[:2]:
        np.testing.assert_array_equal(array(load.load(file).graph.initializers["v"]), normal(64, 64, seed=1))
    assert "w.codes" in load.load(files[1]).graph.initializers and "w" not in load.load(files[1]).graph.initializers
    index = files[2].read_text(encoding="utf-8")
    assert "| 00 | [input](00-input.onnx) | as it came |\n| 01 | same | nothing to do |" in index
    assert "[quantized](02-quantized.onnx) | 1 changed" in index


def test_no_folder_writes_nothing(tmp_path: Path) -> None:
    with Snapshots(None) as snapshots:
        snapshots.add(model(TEXT, w=normal(64, 64), v=normal(64, 64)), "input")
    assert list(tmp_path.iterdir()) == []


def test_an_error_keeps_what_there_is_and_an_interruption_does_not(tmp_path: Path) -> None:
    target = model(TEXT, w=normal(64, 64), v=normal(64, 64))
    with pytest.raises(RuntimeError), Snapshots(tmp_path / "kept") as snapshots:
        snapshots.add(target, "input")
        raise RuntimeError
    assert (tmp_path / "kept" / "00-input.onnx").is_file()
    with pytest.raises(KeyboardInterrupt), Snapshots(tmp_path / "other") as snapshots:
        snapshots.add(target, "input")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_folders_that_may_not_be_replaced(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "00-input.onnx").write_bytes(b"x")
    with pytest.raises(UsageError, match="exists") as error:
        Snapshots(kept)
    assert "--force" in error.value.fix
    with Snapshots(kept, force=True):
        pass
    assert sorted(path.name for path in kept.iterdir()) == [INDEX, DATA]
    (kept / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(UsageError):
        Snapshots(kept, force=True)
    assert (kept / "thesis.txt").is_file()
    with pytest.raises(UsageError, match="no parent folder"), Snapshots(tmp_path / "no" / "where"):
        pass
