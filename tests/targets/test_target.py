"""The facts of each target: complete, spelled as ONNX spells them, and at one with the passes it gets."""

from __future__ import annotations

import ast
from pathlib import Path

import onnx
import pytest

from bct_onnx import registry, targets
from bct_onnx.base import Stage
from bct_onnx.errors import TargetError, UsageError
from bct_onnx.graph import runtimes

ELSEWHERE = {"SimplifiedLayerNormalization", "Inverse", "MultiHeadAttention"}
"""Operators that ONNX Runtime has in the standard domain and ONNX has not."""


ELSEWHERE_A_WORD = {
    ("passes/lower_attention.py", "portable"),
    ("bct_onnx/folders/reading.py", "openvino"),
    ("bct_onnx/runtime/openvino.py", "openvino"),
    ("bct_onnx/cli/timing.py", "openvino"),
}
"""Strings that happen to be a target's name: how numbers that no range is known of are taken, a folder's name, that of
the package that runs models, and the provider of `bench` that is it."""


def test_nothing_but_its_file_knows_a_target() -> None:
    """The default is named once, in `targets.DEFAULT`."""
    home = Path(registry.__file__).parent.parent
    named: set[tuple[str, str]] = set()
    for file in (*home.glob("bct_onnx/**/*.py"), *home.glob("passes/**/*.py")):
        strings = [node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)]
        named |= {(file.relative_to(home).as_posix(), name) for name in targets.names() if name in strings}
    assert named == {("bct_onnx/targets/files.py", targets.DEFAULT), *ELSEWHERE_A_WORD}


@pytest.mark.parametrize("name", registry.TARGETS)
def test_passes_of_a_target_are_written_as_pipelines_are(name: str) -> None:
    target = targets.find(name)
    assert registry.lowering(name).passes[-1].name == "clean-up"
    assert all(dict(one.options(defaults=False)) for one in registry.parse(target.adapts))
    assert all(need.name in registry.PASSES for need in target.needs)
    for refusal in target.refuses:
        assert refusal.why and bool(refusal.stage) != bool(refusal.name)
        assert not refusal.stage or refusal.stage.upper() in Stage.__members__
        for option, values in refusal.options.items():
            for value in values:
                (refused,) = registry.parse(f"{refusal.name}{{{option}={value}}}")
                assert dict(refused.options(defaults=True))[option] == value


def test_every_target_has_facts_and_passes() -> None:
    assert targets.names() == registry.TARGETS and targets.names()[0] == targets.DEFAULT
    with pytest.raises(UsageError, match="unknown target 'cuda'"):
        targets.find("cuda")


@pytest.mark.parametrize("name", registry.TARGETS)
def test_facts_are_spelled_as_onnx_spells_them(name: str) -> None:
    target = targets.find(name)
    assert target.name == name and target.about and target.sources and target.provider.endswith("ExecutionProvider")
    assert registry.default_preset(name) in registry.PRESETS
    if "*" not in target.must:
        known = {schema.name for schema in onnx.defs.get_all_schemas()}
        assert {one for one in target.must if "::" not in one} <= known
    for operator, forms in target.accepts.items() if not target.kernels else ():
        domain, _, op_type = operator.rpartition("::")
        assert domain or op_type in ELSEWHERE or onnx.defs.has(op_type), operator
        named = {variable for form in forms for variable in form.types if not variable.isdigit()}
        variables = runtimes.variables(operator, target.opset)
        assert not variables or not named or named & set(variables) or op_type == "Range", operator


def test_what_is_installed_is_asked_for_its_kernels() -> None:
    accepts = targets.find("ort-cpu").accepts
    assert {"MatMul", "com.microsoft::QGemm", "com.microsoft::MatMulNBits"} <= set(accepts)
    assert any("uint8" in form.types.get("TA", ()) for form in accepts["com.microsoft::QGemm"])


@pytest.mark.parametrize(
    ("target", "pipeline", "why"),
    [
        ("ort-cuda", "bct-plus", "float activations"),
        ("webgpu", "w8a8", "float activations"),
        ("qnn", "w4", "decode weights in every run"),
        ("qnn", "bct", "no integer functions"),
        ("openvino", "w4a8", "with per=static"),
        ("openvino", "quantize-weights,quantize-activations{per=tensor}", "with per=static"),
    ],
)
def test_what_a_target_has_no_use_for_is_refused_before_any_work(target: str, pipeline: str, why: str) -> None:
    with pytest.raises(TargetError, match=target) as refused:
        registry.complete(pipeline, target)
    assert why in refused.value.why and registry.default_preset(target) in refused.value.fix
    registry.complete(registry.default_preset(target), target)
    registry.complete("lift", target)
