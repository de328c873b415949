"""``bct-onnx targets``: list, show, check; exit codes and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import onnx.parser
import pytest

from bct_onnx.registry import TARGETS, lowering
from tests.cli.conftest import Invoke, invoke

__all__ = ["invoke"]


def test_the_list_has_every_target(invoke: Invoke) -> None:
    printed = invoke("targets")
    assert all(f"{name} " in printed for name in TARGETS) and "preset npu" in printed and "fixed shapes" in printed
    figures = json.loads(invoke("targets", "--json"))
    assert [one["name"] for one in figures] == list(TARGETS)


def test_a_target_in_full(invoke: Invoke) -> None:
    printed = invoke("targets", "webgpu")
    assert "com.microsoft::MatMulNBits" in printed and "bits 2 4 8" in printed and "source" in printed
    figures = json.loads(invoke("targets", "qnn", "--json"))
    assert figures["fixed_shapes"] and figures["passes"] == str(lowering("qnn")) and "MatMul" in figures["accepts"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two nodes of which the first has no kernel on GPUs, and a product that saturates."""
    text = """<ir_version: 10, opset_import: ["" : 21]> g (uint8[n,2] x) => (float[n,2] y)
    <int8[2,2] w = {127,1,1,1}> { a = BitwiseNot (x)  p = MatMulInteger (a, w)  y = Cast <to = 1> (p) }"""
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def test_a_check_says_what_is_taken_and_what_saturates(invoke: Invoke, model: Path) -> None:
    printed = invoke("targets", "ort-cpu", "--check", model)
    assert "takes all 3 nodes" in printed and "1 of 1 int8 products saturate" in printed and "up to 127" in printed
    figures = json.loads(invoke("targets", "ort-cpu", "--check", model, "--json"))
    assert figures["refused"] == [] and figures["int8_products"]["exact_everywhere"] is False


def test_what_must_be_taken_and_is_not_ends_with_4(invoke: Invoke, model: Path) -> None:
    error = invoke("targets", "ort-cuda", "--check", model, code=4)
    assert "does not take 1 nodes" in error and "MatMulInteger" in error and "input 0 is uint8; it takes int8" in error


def test_mistakes(invoke: Invoke, model: Path) -> None:
    assert "unknown target" in invoke("targets", "cuda", code=2)
    assert "needs a target" in invoke("targets", "--check", model, code=2)
    assert "cannot be found" in invoke("targets", "ort-cpu", "--check", "no.onnx", code=3)
