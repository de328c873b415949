"""Every preset on every target: a legal file that the CPU provider runs too, or a refusal before any work."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
import pytest

from bct_onnx import registry, targets
from bct_onnx.errors import TargetError
from bct_onnx.graph import load
from bct_onnx.report import Report
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.session import session

QUANTIZERS = [name for name in registry.PRESETS if name != "lift"]
NEW = [name for name in registry.TARGETS if name not in ("ort-cpu", "ort-cpu-integer", "portable", "web")]


@pytest.mark.parametrize("target", NEW)
@pytest.mark.parametrize("preset", QUANTIZERS)
def test_a_legal_file_or_a_refusal(preset: str, target: str, encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    try:
        registry.complete(preset, target)
    except TargetError as refused:
        assert preset != registry.default_preset(target) and refused.why and refused.fix
        with pytest.raises(TargetError):
            rewrite(encoder, preset, target=target, options=Options(out))
        assert not out.exists()
        return
    _is_right(rewrite(encoder, preset, target=target, options=Options(out)), target, out)


def _is_right(report: Report, target: str, out: Path) -> None:
    assert report.legality is not None and report.legality.illegal == () and report.legality.target == target
    assert report.parity is not None and report.parity.finite and report.parity.sqnr_db > 9, report.parity
    assert targets.check(load.load(out), targets.find(target)).illegal == (), "read back from the file"


def test_heads_whose_size_follows_from_the_rows_of_a_table_are_written_for_the_web(
    encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.onnx"
    report = rewrite(encoder, "w4a8-nearest", target="web", options=Options(out))
    _is_right(report, "web", out)
    assert "Attention" not in report.after.operators, "it needs opset 23"


def test_the_bundled_model_is_legal_for_the_web(bundled_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    report = rewrite(bundled_model, "w4a8-nearest", target="web", options=Options(out))
    _is_right(report, "web", out)
    assert "com.microsoft.GatherBlockQuantized" not in report.after.operators


def test_gpu_kernels_multiply_and_look_up(encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    report = rewrite(encoder, target="webgpu", options=Options(out))
    names = report.after.operators
    assert names["com.microsoft.MatMulNBits"] == 6 and names["com.microsoft.GatherBlockQuantized"] == 1
    assert "Attention" not in names and names["Softmax"] == 1


def test_an_npu_gets_codes_and_sizes(encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    report = rewrite(encoder, target="qnn", options=Options(out, verify_each=True))
    assert report.parity is not None and report.parity.sqnr_db > 30
    assert [one.shape for one in session(out).get_inputs()] == [[1, 128]] and report.timings[0].sequence == 128
    assert {"com.microsoft.QGemm", "Attention"}.isdisjoint(report.after.operators)


def test_a_provider_that_is_not_installed(encoder: Path) -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        session(encoder, provider="CUDAExecutionProvider")
        return
    with pytest.raises(TargetError, match="has no CUDAExecutionProvider"):
        session(encoder, provider="CUDAExecutionProvider")


def test_an_illegal_result_is_not_written(encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    with pytest.raises(TargetError, match="target webgpu does not take Attention") as refused:
        rewrite(encoder, "normalize,quantize-weights,lower-nbits,clean-up", target="webgpu", options=Options(out))
    assert "there is no kernel" in refused.value.why and not out.exists()
