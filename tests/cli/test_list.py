"""``bct-onnx list``: presets, targets and passes; text, JSON, and the page of the passes."""

from __future__ import annotations

import json

import pytest

from bct_onnx import registry
from tests.cli.conftest import Invoke, line


def test_the_list_has_everything(invoke: Invoke) -> None:
    printed = invoke("list")
    for name in (*registry.PASSES, *registry.PRESETS, *registry.TARGETS):
        assert line(printed, name)


def test_presets_are_a_line_each_with_what_they_made_of_one_model(invoke: Invoke) -> None:
    printed = invoke("list", "presets")
    for name, preset in registry.PRESETS.items():
        assert line(printed, name).endswith(preset.audience)
    default = registry.PRESETS["bct-plus"].measured
    assert default is not None
    assert line(printed, "bct-plus").split()[1:4] == [
        f"{default.megabytes:.1f}", f"{default.points_lost:.2f}", f"{default.times_faster:.2f}x"
    ]  # fmt: skip
    assert registry.MEASUREMENT.commit in printed and "q4 for w4, q8 for w8a8, int8 for w8a8" in printed
    assert max(map(len, printed.splitlines())) <= 120
    figures = json.loads(invoke("list", "presets", "--json"))
    assert [each["name"] for each in figures] == list(registry.PRESETS)
    assert figures[0]["measured"]["megabytes"] == default.megabytes


def test_targets(invoke: Invoke) -> None:
    printed = invoke("list", "targets")
    assert all(f"{name} " in printed for name in registry.TARGETS)
    assert "preset npu" in printed and "fixed shapes" in printed
    figures = json.loads(invoke("list", "targets", "--json"))
    assert [each["name"] for each in figures] == list(registry.TARGETS)


def test_a_target_in_full(invoke: Invoke) -> None:
    printed = invoke("list", "webgpu")
    assert "com.microsoft::MatMulNBits" in printed and "bits 2 4 8" in printed and "source" in printed
    figures = json.loads(invoke("list", "qnn", "--json"))
    assert figures["fixed_shapes"] and figures["passes"] == str(registry.lowering("qnn"))
    assert "MatMul" in figures["accepts"]


@pytest.mark.parametrize("name", registry.PASSES)
def test_a_pass_in_full(name: str, invoke: Invoke) -> None:
    printed = invoke("list", name)
    assert printed.startswith(f"{name}\n") and "Why:" in printed and "Promise:" in printed
    if "Defaults:" in printed:
        assert registry.parse(printed.split("Defaults:")[1].strip()).full_text() == registry.parse(name).full_text()


@pytest.mark.parametrize("name", [*registry.PRESETS, *registry.SYNONYMS])
def test_a_preset_in_full(name: str, invoke: Invoke) -> None:
    lines = invoke("list", name).splitlines()
    assert registry.parse(lines[1].strip()) == registry.preset(name) and lines[0] in registry.PRESETS


def test_the_page_of_the_passes(invoke: Invoke) -> None:
    page = invoke("list", "passes", "--markdown")
    assert all(f"| [`{name}`](" in page for name in registry.PASSES)
    assert "only the passes" in invoke("list", "presets", "--markdown", code=2)


def test_it_knows_what_was_meant(invoke: Invoke) -> None:
    assert "did you mean 'quantize-weights'?" in invoke("list", "quantize-weight", code=2)
