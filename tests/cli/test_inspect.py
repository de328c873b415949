"""``bct-onnx inspect``: a model's figures, compressed or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx.parser
import onnxruntime as ort
import pytest

from bct_onnx import cli
from bct_onnx.report import Report
from tests.cli.conftest import Invoke
from tests.whole_models import Compressed


def stamped(report: Report, model: Path) -> str:
    """The pipeline as it stands in the metadata, without the folder of the tokenizer that calibrated."""
    return report.pipeline.replace(str(model.parent), "tokenizer.json")


def inspect(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.main(["inspect", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_a_float_model(bundled_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = json.loads(inspect(capsys, bundled_model, "--json"))
    assert figures["parameters"] == pytest.approx(1.4e6, rel=0.05) and figures["bits_per_weight"] == pytest.approx(32)
    assert figures["ratio_parameters"] == pytest.approx(1) and figures["ratio_file"] == pytest.approx(1, abs=0.02)
    assert figures["bytes"] == bundled_model.stat().st_size and figures["ops"]["MatMul"] == 24
    left = figures["float_weights_left"]
    assert sum(one["bytes"] for one in left) == pytest.approx(4 * figures["parameters"], rel=0.01)
    assert [one["bytes"] for one in left] == sorted((one["bytes"] for one in left), reverse=True)
    assert set(figures["bytes_by_kind"]) >= {"embedding", "matmul", "norm", "bias"}
    assert figures["opsets"][""] >= 17 and figures["model"] == str(bundled_model)


def test_a_compressed_model(
    compressed: Callable[..., Compressed], bundled_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = compressed("bct-plus")
    out, report = result.file, result.report
    figures = json.loads(inspect(capsys, out, "--json"))
    assert figures["parameters"] == report.before.parameters and 4 < figures["bits_per_weight"] < 4.6
    assert figures["ratio_file"] == pytest.approx(4 * figures["parameters"] / out.stat().st_size)
    assert all(one["bytes"] <= 4096 for one in figures["float_weights_left"])
    assert figures["metadata"]["bct_onnx.pipeline"] == stamped(report, bundled_model)


def test_the_text_says_the_same(
    compressed: Callable[..., Compressed], bundled_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = compressed("bct-plus")
    out, report = result.file, result.report
    printed = inspect(capsys, out)
    assert (
        f"{out.stat().st_size / 1e6:.1f} MB" in printed and f"{report.after.bits_per_weight:.2f} bits/weight" in printed
    )
    assert f"{report.before.parameters:,} parameters" in printed and f"{report.after.ratio_parameters:.2f}x" in printed
    assert stamped(report, bundled_model) in printed and "embedding" in printed and "MatMulIntegerToFloat 19" in printed


def test_a_missing_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(tmp_path / "none.onnx")]) == 3
    assert "cannot be found" in capsys.readouterr().err


@pytest.mark.parametrize("tool", ["onnxruntime", "onnxscript"])
def test_a_file_that_another_tool_has_unfolded(
    tool: str, compressed: Callable[..., Compressed], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, unfolded = compressed("w4a8-nearest").file, tmp_path / "unfolded.onnx"
    assert "unfolded" not in inspect(capsys, out) and not json.loads(inspect(capsys, out, "--json"))["unfolded"]
    if tool == "onnxscript":
        from onnxscript import optimizer

        onnx.save(optimizer.optimize(onnx.load(out)), unfolded)
    else:
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(unfolded)
        options.log_severity_level = 4
        ort.InferenceSession(str(out), options, providers=["CPUExecutionProvider"])
    assert unfolded.stat().st_size > 1.3 * out.stat().st_size
    assert "another tool has decoded them" in inspect(capsys, unfolded)
    assert json.loads(inspect(capsys, unfolded, "--json"))["unfolded"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two nodes of which the first has no kernel on GPUs, and a product that saturates."""
    text = """<ir_version: 10, opset_import: ["" : 21]> g (uint8[n,2] x) => (float[n,2] y)
    <int8[2,2] w = {127,1,1,1}> { a = BitwiseNot (x)  p = MatMulInteger (a, w)  y = Cast <to = 1> (p) }"""
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def test_a_check_says_what_is_taken_and_what_saturates(invoke: Invoke, model: Path) -> None:
    printed = invoke("inspect", model, "--target", "ort-cpu")
    assert "takes all 3 nodes" in printed and "1 of 1 int8 products saturate" in printed and "up to 127" in printed
    figures = json.loads(invoke("inspect", model, "--target", "ort-cpu", "--json"))
    assert figures["refused"] == [] and figures["int8_products"]["exact_everywhere"] is False


def test_what_must_be_taken_and_is_not_ends_with_4(invoke: Invoke, model: Path) -> None:
    error = invoke("inspect", model, "--target", "ort-cuda", code=4)
    assert "does not take 1 nodes" in error and "MatMulInteger" in error and "input 0 is uint8; it takes int8" in error


def test_a_target_that_does_not_exist(invoke: Invoke, model: Path) -> None:
    assert "unknown target" in invoke("inspect", model, "--target", "cuda", code=2)
