"""Passes without `normalize` before them: what they make has to exist in the model's operator set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from bct_onnx.errors import InputModelError, TargetError
from bct_onnx.rewriting import Options, rewrite
from tests.graph import handmade

TEXT = """<ir_version: 8, opset_import: ["" : {opset}]>
    net (int64[batch, sequence] input_ids) => (float[batch, sequence, 32] y) {{
        e = Gather (table, input_ids)  t = Erf (e)  y = MatMul (t, w) }}"""
TABLE = np.random.default_rng(1).standard_normal((40, 64)).astype(np.float32)
WEIGHT = np.random.default_rng(2).standard_normal((64, 32)).astype(np.float32)


def source(folder: Path, opset: int) -> Path:
    return handmade.write(handmade.model(TEXT.format(opset=opset), table=TABLE, w=WEIGHT), folder / "in.onnx")


@pytest.mark.parametrize(
    ("opset", "passes", "why"),
    [
        (11, "quantize-weights", "'axis', which is not known"),
        (20, "quantize-weights", "'x' cannot be INT4"),
        (17, "quantize-embeddings", "BitwiseAnd in it: there is no such operator"),
        (13, "calibrate,quantize-dataflow", "cannot be UINT16"),
    ],
)
def test_an_opset_that_is_too_old_is_told_before_the_runtime_is_asked(
    tmp_path: Path, opset: int, passes: str, why: str
) -> None:
    """Of models too big to be run, a file that cannot be loaded would be the result."""
    with pytest.raises(InputModelError, match=f"opset {opset} is too old for quantize") as caught:
        rewrite(source(tmp_path, opset), passes, options=Options(tmp_path / "out.onnx", check=False))
    assert why in (caught.value.why or "") and "normalize" in (caught.value.fix or "")
    rewrite(source(tmp_path, opset), f"normalize,{passes}", options=Options(tmp_path / "out.onnx"))


@pytest.mark.parametrize("opset", [11, 17])
def test_what_an_old_opset_has_needs_no_newer_one(tmp_path: Path, opset: int) -> None:
    rewrite(source(tmp_path, opset), "halve-floats,calibrate,quantize-intermediates", options=Options(tmp_path / "o"))
    assert onnx.load(tmp_path / "o").opset_import[0].version == opset


@pytest.mark.since("1.32", "older ones load no opset 25")
def test_an_opset_beyond_that_of_a_target_is_not_laid_to_a_node(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="target ort-cuda does not take opset") as caught:
        rewrite(source(tmp_path, 25), "quantize-weights", target="ort-cuda", options=Options(tmp_path / "out.onnx"))
    assert "it is 25" in (caught.value.why or "") and "input model" not in (caught.value.why or "")
