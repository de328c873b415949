"""OpenVINO as a runtime of its own: outputs, errors, and how a rewrite and bench use it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx import cli
from bct_onnx.errors import TargetError, UsageError
from bct_onnx.report import Report
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime import openvino
from bct_onnx.runtime.session import run, session

PRODUCT = """<ir_version: 8, opset_import: ["": 18]>
made (float[n,64] x, float[64,64] w) => (float[n,64] y) { a = MatMul (x, w)  b = Relu (a)  y = MatMul (b, w) }"""
UNKNOWN = """<ir_version: 8, opset_import: ["": 18, "nowhere": 1]>
made (float[n] x) => (float[n] y) { y = nowhere.Spin (x) }"""
FEW_BITS = "normalize,quantize-weights"


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """A file with a weight that two products share."""
    model = ir.from_onnx_text(PRODUCT)
    weight = model.graph.inputs.pop()
    values = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    weight.const_value = ir.tensor(values, name="w")
    model.graph.initializers["w"] = weight
    file = tmp_path / "model.onnx"
    ir.save(model, file)
    return file


def test_without_it_times_are_kept_back(
    product: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(openvino, "is_installed", lambda: False)
    out = tmp_path / "out.onnx"
    assert cli.main(["rewrite", str(product), "-o", str(out), "--passes", FEW_BITS, "--target", "openvino"]) == 0
    printed = capsys.readouterr().out
    assert "not timed: pip install 'bct-onnx[openvino]'" in printed and "x faster" not in printed
    with pytest.raises(UsageError, match="not installed"):
        openvino.OpenVinoSession(product)
    assert cli.main(["bench", str(product), "--provider", "openvino"]) == 2


def rewritten(product: Path, target: str) -> Report:
    return rewrite(product, FEW_BITS, target=target, options=Options(product.with_name(f"{target}.onnx")))


@pytest.mark.openvino
def test_a_rewrite_runs_and_times_its_result_there(product: Path) -> None:
    report = rewritten(product, "openvino")
    assert report.timed_in.startswith("OpenVINO 20") and report.speeds == report.timings and len(report.timings) == 1
    assert report.parity is not None and report.elsewhere is not None
    assert report.elsewhere.sqnr_db == pytest.approx(report.parity.sqnr_db, abs=0.1)
    assert json.loads(json.dumps(report.as_dict()))["timed_in"] == report.timed_in


def test_other_targets_are_not_run_there(product: Path) -> None:
    report = rewritten(product, "ort-cpu")
    assert report.elsewhere is None and report.timed_in == "" and report.speeds == report.timings


@pytest.mark.openvino
def test_outputs_are_those_of_onnxruntime(product: Path) -> None:
    feeds = {"x": np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)}
    (here,), (there,) = (run(each, feeds) for each in (session(product), openvino.OpenVinoSession(product)))
    np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-4)
    model = openvino.OpenVinoSession(product)
    np.testing.assert_array_equal(model.run(["y"], feeds), [there])
    with pytest.raises(TargetError, match="cannot run"):
        model.run(["z"], feeds)


@pytest.mark.openvino
def test_what_it_does_not_take_is_said(tmp_path: Path) -> None:
    file = tmp_path / "unknown.onnx"
    ir.save(ir.from_onnx_text(UNKNOWN), file)
    with pytest.raises(TargetError, match=r"OpenVINO .* cannot compile") as caught:
        openvino.OpenVinoSession(file)
    assert "Spin" in caught.value.why and "\n" not in caught.value.why


@pytest.mark.openvino
def test_bench_times_there(product: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "bench",
        str(product),
        str(product),
        "--provider",
        "openvino",
        "--shape",
        "2x64",
        "--rounds",
        "1",
        "--json",
    ]
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["latency"][0]["median_ms"] > 0
    assert cli.main(["bench", str(product), "--provider", "openvino", "--tokens", "4"]) == 2
