"""Integer products that saturate on CPUs without VNNI are found, and ours are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic

from bct_onnx import targets
from bct_onnx.forms.int8 import NARROW
from bct_onnx.graph import load
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.latency import CpuFeatures
from bct_onnx.stamps import INT8, TARGET
from bct_onnx.targets.int8 import magnitude
from tests.graph import handmade


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    """A product, in a file without shapes that a quantizer trips over."""
    weight = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    text = '<ir_version: 8, opset_import: ["" : 17]> net (float[n, 64] x) => (float[n, 32] y) { y = MatMul (x, w) }'
    return handmade.write(handmade.model(text, w=weight), tmp_path / "matrix.onnx")


@pytest.mark.parametrize(("reduce_range", "wide"), [(False, 1), (True, 0)])
def test_another_quantizer(reduce_range: bool, wide: int, matrix: Path, tmp_path: Path) -> None:
    out = tmp_path / "dynamic.onnx"
    quantize_dynamic(matrix, out, weight_type=QuantType.QInt8, per_channel=True, reduce_range=reduce_range)
    found = targets.products(load.load(out))
    assert len(found.wide) == wide and found.narrow == 1 - wide
    assert ("saturate" in found.said) == bool(wide) and found.as_dict()["exact_everywhere"] == (not wide)


def test_the_limit_is_where_sums_of_pairs_leave_int16() -> None:
    assert 2 * 255 * NARROW < 2**15 <= 2 * 255 * (NARROW + 1)


@pytest.mark.parametrize(
    ("pipeline", "said"),
    [("quantize-weights,quantize-activations", "within 64"),
     ("quantize-weights{bits=8 reduce-range=false},quantize-activations", "widen first"),
     ("quantize-weights{bits=8 reduce-range=false},quantize-activations{per=tensor}", "widen first")],
)  # fmt: skip
def test_ours_are_exact_and_the_file_says_so(pipeline: str, said: str, matrix: Path, tmp_path: Path) -> None:
    out = tmp_path / "ours.onnx"
    report = rewrite(matrix, f"normalize,{pipeline}", options=Options(out, check=False))
    assert report.products is not None and report.products.wide == () and said in report.products.said
    stamped = {one.key: one.value for one in onnx.load(out).metadata_props}
    assert stamped[TARGET] == "ort-cpu" and stamped[INT8] == report.products.said
    assert report.as_dict()["int8_products"]["exact_everywhere"] is True


@pytest.mark.parametrize(("kind", "count"), [("int8", 1), ("uint8", 0)])
def test_what_the_runtime_fuses_counts_too(kind: str, count: int) -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 21]> g (float[n,2] x) => (float[n,2] y)
    <float s = {{0.1}}, uint8 z = {{128}}, {kind}[2,2] w = {{100,1,1,1}}, float[2] t = {{1, 1}}>
    {{ c = QuantizeLinear (x, s, z)  d = DequantizeLinear (c, s, z)
       e = DequantizeLinear <axis = 1> (w, t)  y = MatMul (d, e) }}"""
    found = targets.products(ir.from_onnx_text(text))
    assert len(found.wide) == count and (not count or found.wide[0][1] == 100)


def test_what_cannot_be_followed_counts_as_large() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]> g (uint8[n,2] x) => (int32[n,2] y)
    <int8[2,2] w = {1,1,1,1}> { v = Neg (w)  y = MatMulInteger (x, v) }"""
    assert targets.products(ir.from_onnx_text(text)).wide[0][1] == 128


def test_decoded_weights_are_bounded_by_what_they_are_made_from() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "ai.bct" : 1]> g (int8[n] x) => (int8[n] y)
    <int8[2] c = {-8, 3}, int8[1] m = {-7}> { y = ai.bct.DecodeInt8 <rows = 2, columns = 1> (c, m) }"""
    assert magnitude(next(iter(ir.from_onnx_text(text).graph)).outputs[0]) == 56


def test_what_larger_weights_do_here() -> None:
    found = targets.Products(0, 0, (("p", 127),))
    assert found.here(CpuFeatures("x86_64", "", ("avx2", "vnni"))) == "exact on this CPU"
    assert "one of these" in found.here(CpuFeatures("x86_64", "", ("avx2",)))
    assert targets.Products(1, 0, ()).here(CpuFeatures("x86_64", "", None)) == ""
