"""``bct-onnx list``: presets, targets and passes; text, JSON, the page of the passes."""

from __future__ import annotations

import json

import pytest

from bct_onnx import registry
from bct_onnx.registry import TARGETS
from tests.cli.conftest import Invoke


def test_the_list_has_every_target(invoke: Invoke) -> None:
    printed = invoke("list", "targets")
    assert all(f"{name} " in printed for name in TARGETS) and "preset npu" in printed and "fixed shapes" in printed
    figures = json.loads(invoke("list", "targets", "--json"))
    assert [one["name"] for one in figures] == list(TARGETS)


def test_a_target_in_full(invoke: Invoke) -> None:
    printed = invoke("list", "webgpu")
    assert "com.microsoft::MatMulNBits" in printed and "bits 2 4 8" in printed and "source" in printed
    figures = json.loads(invoke("list", "qnn", "--json"))
    assert figures["fixed_shapes"] and figures["passes"] == TARGETS["qnn"] and "MatMul" in figures["accepts"]


def test_it_lists_everything(invoke: Invoke) -> None:
    printed = invoke("list")
    for name in (*registry.PASSES, *registry.PRESETS, *registry.TARGETS):
        assert lines(printed, name)


@pytest.mark.parametrize("name", registry.PASSES)
def test_it_explains_a_pass(name: str, invoke: Invoke) -> None:
    printed = invoke("list", name)
    assert printed.startswith(f"{name}\n") and "Why:" in printed and "Promise:" in printed
    if "Defaults:" in printed:
        assert registry.parse(printed.split("Defaults:")[1].strip()).spelled() == registry.parse(name).spelled()


@pytest.mark.parametrize("name", registry.PRESETS)
def test_it_explains_a_preset(name: str, invoke: Invoke) -> None:
    assert registry.parse(invoke("list", name).splitlines()[1].strip()) == registry.preset(name)


def test_it_knows_what_was_meant(invoke: Invoke) -> None:
    assert "did you mean 'quantize-weights'?" in invoke("list", "quantize-weight", code=2)
