"""What ONNX Runtime has kernels for is data, and whatever is written is in it for the oldest runtime."""

from __future__ import annotations

from collections.abc import Callable

import onnx.defs
import onnx_ir as ir
import onnxruntime as ort
import pytest

from bct_onnx import registry, targets
from bct_onnx.errors import TargetError
from bct_onnx.graph import functions, kernels, operators
from bct_onnx.runtime.session import session
from tests.passes import golden


def _missing(model: ir.Model) -> set[tuple[str, int]]:
    """Operators of a model, without functions of our own, that the oldest runtime does not run; with their opsets."""
    lowest = kernels.runtime(kernels.LOWEST)
    used = {(node.domain, node.op_type) for node in model.graph.all_nodes() if node.domain != functions.DOMAIN}
    used.discard(("", "Constant"))
    named = {(operators.name(domain, op_type), model.opset_imports.get(domain, 1)) for domain, op_type in used}
    return {(operator, opset) for operator, opset in named if not lowest.runs(operator, opset)}


@pytest.mark.parametrize("preset", registry.PRESETS)
def test_the_oldest_runtime_runs_every_operator_of_every_preset(
    preset: str, rewritten: Callable[..., ir.Model], two_layers: Callable[[str, str], ir.Model]
) -> None:
    for model in (rewritten(preset), two_layers(preset, "ort-cpu-integer")):
        assert _missing(functions.inlined(model)) == set()


def test_the_oldest_runtime_runs_what_passes_write() -> None:
    """All but QuantizeLinear of opset 23, which lower-quantize respells."""
    unknown: set[tuple[str, int]] = set()
    for file in golden.FOLDER.glob("*.onnxtxt"):
        for case in golden.read(file):
            if case.after not in ("", "same") and not case.after.startswith("ops:"):
                unknown |= _missing(ir.from_onnx_text(case.after))
    assert unknown <= {("QuantizeLinear", 23)}


@pytest.mark.parametrize("version", kernels.versions())
def test_tables_are_complete(version: str) -> None:
    table = kernels.runtime(version)
    assert table.version == version and table.opset >= 21 and len(table.kernels) > 250
    assert table.release.startswith(f"{version}.") and table.ir_version >= 10
    assert table.attributes["com.microsoft::MatMulNBits"] >= {"K", "N", "bits"}
    assert not table.values.keys() - table.kernels.keys()
    assert table.runs("MatMul", 13) and table.runs("com.microsoft::QuantizeLinear", 1)
    assert table.runs("Mish", 21) and not table.runs("Wobble", 22)


def _one(body: str, opset: int) -> ir.Model:
    text = f'<ir_version: 10, opset_import: ["": {opset}]> g (float[2,4] x) => (y) <float s = {{0.1}}> {{ {body} }}'
    return ir.from_onnx_text(text)


@pytest.mark.parametrize("operator", ["RandomNormalLike", "RandomUniformLike", "Softplus", "Gelu", "Bernoulli", "Mish"])
@pytest.mark.parametrize("opset", [18, 20, 21, 22, 23])
def test_tables_say_what_the_installed_runtime_does(operator: str, opset: int) -> None:
    version = ".".join(ort.__version__.split(".")[:2])
    if version not in kernels.versions() or not onnx.defs.has(operator, opset):
        pytest.skip("no table of that version, or no such operator")
    try:
        session(_one(f"y = {operator} (x)", opset))
        loads = True
    except TargetError:
        loads = False
    assert loads == kernels.runtime(version).runs(operator, opset)


def test_the_installed_runtime_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking loads all providers: with onnxruntime-gpu and without its libraries the process ends there."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    def refuse(*_: object) -> None:
        raise AssertionError("the kernels of all providers were asked for")

    monkeypatch.setattr(state, "get_all_opkernel_def", refuse)
    monkeypatch.setattr(state, "get_all_operator_schema", refuse)
    targets.find.cache_clear()
    for name in targets.names():
        targets.check(_one("y = QuantizeLinear (x, s)", 23), targets.find(name))
