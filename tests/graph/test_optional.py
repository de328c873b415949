"""Initializers that are inputs as well: they stay inputs, and no pass takes their default for a constant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from bct_onnx.graph import optional
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.session import session
from passes.normalize import Normalize
from tests.graph import handmade
from tests.interface import differences

ADAPTER = """<ir_version: {ir}, opset_import: ["" : 17]>
    g ({kind}[n, 64] x, {kind}[64, r] down, {kind}[r, 64] up) => ({kind}[n, 64] y) {{
        a = MatMul (x, w)  d = MatMul (x, down)  e = MatMul (d, up)  s = Add (a, e)  y = Tanh (s)  }}"""
TIED = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[n, 64] x, float[64, 64] w) => (float[n, 64] y) { a = MatMul (x, w)  t = Tanh (a)  y = MatMul (t, v) }"""
TABLE = """<ir_version: 8, opset_import: ["" : 17]>
    g (int64[n] x, float[t, 64] w) => (float[n, 64] y) { e = Gather (w, x)  y = MatMul (e, v) }"""
SCALE = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[n, 64] x, float[1] w) => (float[n, 64] y) { a = MatMul (x, v)  y = Mul (a, w) }"""
BRANCH = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[n, 64] x, float[64, 64] w, bool w2) => (float[n, 64] y) {
        a = MatMul (x, v)
        y = If (w2) <then_branch = yes () => (float[n, 64] b) { b = MatMul (a, w) },
                     else_branch = no () => (float[n, 64] c) { c = Tanh (a) }> }"""


def _matrix(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return (np.random.default_rng(seed).standard_normal(shape) / 8).astype(np.float32)


V, X = _matrix(64, 64, seed=1), _matrix(5, 64, seed=2)
CASES = {
    "adapter": (ADAPTER.format(ir=8, kind="float"), {"down": _matrix(64, 0), "up": _matrix(0, 64), "w": V},
                {"down": _matrix(64, 4), "up": 8 * _matrix(4, 64)}, X),
    "equal to a weight": (TIED, {"w": V, "v": V}, {"w": _matrix(64, 64)}, X),
    "a table": (TABLE, {"w": _matrix(40, 64), "v": V}, {"w": _matrix(50, 64, seed=5)}, np.arange(7)),
    "a number": (SCALE, {"w": np.ones(1, np.float32), "v": V}, {"w": np.full(1, 2.5, np.float32)}, X),
    "in a branch": (BRANCH, {"w": V, "w2": np.array(False), "v": V}, {"w": _matrix(64, 64), "w2": np.array(True)}, X),
}  # fmt: skip


@pytest.mark.parametrize("target", ["ort-cpu", "portable"])
@pytest.mark.parametrize("preset", ["bct-plus", "w4a8-nearest", "w4", "lift", "quantize-weights,quantize-activations"])
@pytest.mark.parametrize("name", CASES)
def test_it_stays_an_input(name: str, preset: str, target: str, tmp_path: Path) -> None:
    """With its default and with something else the result is as near to the source."""
    text, stored, given, x = CASES[name]
    if preset.startswith("quantize"):
        text = text.replace("17", "21").replace("ir_version: 8", "ir_version: 10")
    proto = handmade.model(text, **{key: np.asarray(value) for key, value in stored.items()})
    source, out = handmade.write(proto, tmp_path / "in.onnx"), tmp_path / "out.onnx"
    rewrite(source, preset, target=target, options=Options(out))
    after = onnx.load(out)
    assert differences(proto, after) == []
    defaults = {tensor.name: numpy_helper.to_array(tensor) for tensor in after.graph.initializer}
    for key in given:
        assert np.array_equal(defaults[key], stored[key]) and defaults[key].dtype == np.asarray(stored[key]).dtype
    for more in ({}, given):
        wanted, found = (session(file).run(None, {"x": x, **more})[0] for file in (source, out))
        error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
        assert error < (1e-5 if preset == "lift" else 0.25), (more.keys(), error)


def test_before_version_4_it_was_a_constant(tmp_path: Path) -> None:
    proto = handmade.model(TIED.replace("ir_version: 8", "ir_version: 3").replace("17", "9"), w=V, v=_matrix(64, 64))
    source, out = handmade.write(proto, tmp_path / "in.onnx"), tmp_path / "out.onnx"
    report = rewrite(source, "w4", options=Options(out))
    assert [info.name for info in onnx.load(out).graph.input] == ["x"] and report.after.ratio_parameters > 4


def test_bfloat16_becomes_float32_with_its_default() -> None:
    proto = handmade.model(ADAPTER.format(ir=8, kind="bfloat16"), down=_matrix(64, 4), up=_matrix(4, 64), w=V)
    for tensor in proto.graph.initializer:
        wide = np.frombuffer(tensor.raw_data, np.uint32)
        tensor.raw_data, tensor.data_type = (wide >> 16).astype(np.uint16).tobytes(), onnx.TensorProto.BFLOAT16
    model = ir.from_proto(proto)
    Normalize()(model)
    assert [value.dtype for value in model.graph.inputs] == [ir.DataType.FLOAT] * 3
    x = np.ones((1, 64), np.float32)
    default = session(model).run(None, {"x": x})[0]
    other = session(model).run(None, {"x": x, "up": np.zeros((4, 64), np.float32)})[0]
    assert default.dtype == np.float32 and not np.allclose(default, other)


def test_it_has_its_default_whenever_the_model_is_run() -> None:
    proto = handmade.model(SCALE, w=np.ones(1, np.float32), v=V)
    model = ir.from_proto(proto)
    with optional.set_aside(model):
        assert "w" not in model.graph.initializers and optional.is_optional(model.graph.inputs[1])
        with optional.set_aside(model):
            assert [value.name for value in session(model).get_inputs()] == ["x"]
        assert "w" not in model.graph.initializers
    assert "w" in model.graph.initializers
