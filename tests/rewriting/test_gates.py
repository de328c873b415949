"""No run ends with exit code 0 and nothing compressed, a larger file, or a result that is something else."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bct_onnx import gates
from bct_onnx.base import Applied, Pass, Site
from bct_onnx.cli.tables.report import print_report
from bct_onnx.errors import GateError, InputModelError
from bct_onnx.graph import tensors
from bct_onnx.rewriting import Options, rewrite
from tests.graph import handmade
from tests.interface import differences

RNG = np.random.default_rng(0)
W = (RNG.standard_normal((64, 64)) / 8).astype(np.float32)
HEAD = '<ir_version: 10, opset_import: ["" : 21, "ai.onnx.ml" : 4]>'


def _source(folder: Path, text: str, **arrays: np.ndarray[Any, Any]) -> Path:
    return handmade.write(handmade.model(f"{HEAD} {text}", **arrays), folder / "in.onnx")


def _net(folder: Path) -> Path:
    return _source(folder, "net (float[n, 64] x) => (float[n, 64] y) { a = MatMul (x, w)  y = Tanh (a) }", w=W)


@dataclasses.dataclass(frozen=True)
class Broken(Pass):
    """Approximates the weight by something else."""

    name: ClassVar[str] = "broken"
    promise: ClassVar[str] = "bounded"

    how: str = "zero"

    def apply(self, model: ir.Model) -> Applied:
        value = model.graph.initializers["w"]
        old = tensors.array(value)
        made = {"zero": 0 * old, "unrelated": old[::-1], "negative": -old, "huge": 9 * old, "near": 1.2 * old}
        value.const_value = ir.tensor(np.ascontiguousarray(made[self.how]), name="w")
        return Applied(model, [Site("w")])


@pytest.mark.parametrize("how", ["zero", "unrelated", "negative"])
def test_what_has_nothing_to_do_with_its_source_is_not_written(how: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / "o.onnx"
    with pytest.raises(GateError, match="nothing to do with its source") as error:
        rewrite(_net(tmp_path), (Broken(how),), target="portable", options=Options(out))
    assert "'y'" in error.value.where and "--accept" in error.value.fix and list(out.parent.iterdir()) == []
    rewrite(_net(tmp_path), (Broken(how),), target="portable", options=Options(out, accept=True))
    assert out.exists()


def test_what_is_near_passes(tmp_path: Path) -> None:
    assert rewrite(_net(tmp_path), (Broken("near"),), target="portable").parity is not None


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_few_bits_pass(bits: int, bundled_model: Path) -> None:
    report = rewrite(bundled_model, f"normalize,quantize-embeddings{{bits={bits}}},quantize-weights{{bits={bits}}}")
    assert report.parity is not None


def test_a_large_output_does_not_hide_a_small_one(tmp_path: Path) -> None:
    text = """net (float[n, 64] x) => (float[n, 64] large, float[n, 64] y) {
        large = Mul (x, thousand)  a = MatMul (x, w)  y = Tanh (a) }"""
    source = _source(tmp_path, text, w=W, thousand=np.array(1000, np.float32))
    with pytest.raises(GateError, match="nothing to do") as error:
        rewrite(source, (Broken("zero"),), target="portable")
    assert error.value.where == "output 'y'"


@pytest.mark.parametrize("preset", ["bct-plus", "w4a8-nearest", "w4"])
def test_nothing_compressed_is_no_success(preset: str, tmp_path: Path) -> None:
    """`Identity` goes, so that something is changed; no weight is there to be made smaller."""
    source = _source(tmp_path, "net (float[n, 4] x) => (float[n, 4] y) { a = Identity (x)  y = Tanh (a) }")
    with pytest.raises(GateError, match="nothing was compressed") as error:
        rewrite(source, preset)
    assert error.value.exit_code == 1
    assert rewrite(source, "lift").changed


def test_no_file_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "GROWTH", -(1 << 20))
    with pytest.raises(GateError, match="larger than its source"):
        rewrite(_net(tmp_path), "w4a8-nearest")
    assert rewrite(_net(tmp_path), "w4a8-nearest", options=Options(accept=True)).parity is not None


def _said(source: Path, preset: str, capsys: pytest.CaptureFixture[str]) -> str:
    report = rewrite(source, preset)
    json.dumps(report.as_dict(), allow_nan=False)
    print_report(report, source, Options(), verbose=False)
    return capsys.readouterr().out


def test_what_says_nothing_is_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = """net (float[n, 64] x) => (float[n, 64] y, float[64] fixed, float[n, 64] nan) {
        a = MatMul (x, w)  y = Tanh (a)  fixed = Neg (b)  z = Sub (x, x)  nan = Div (z, z) }"""
    source = _source(tmp_path, text, w=W, b=np.ones(64, np.float32))
    said = _said(source, "w4", capsys)
    assert "fixed says nothing: it does not vary" in said and "nan says nothing: it does not vary" in said
    assert "SQNR exact" not in said and "y says nothing" not in said


def test_nothing_varies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "net (float[n, 64] x) => (float[n, 64] y) { z = Mul (x, o)  a = MatMul (z, w)  y = Tanh (a) }"
    said = _said(_source(tmp_path, text, w=W, o=np.zeros(64, np.float32)), "w4", capsys)
    assert "outputs    y says nothing: it does not vary" in said and "SQNR" not in said


BEST = "best = ArgMax <axis = -1, keepdims = 0> (a)"
CLASSES = ", ".join(map(str, range(64)))
OUTPUTS = {
    "texts": ("int64[n] best, string[n] label", f"{BEST}  label = Gather (names, best)"),
    "texts and floats": ("float[n, 64] a, string[n] label", f"{BEST}  label = Gather (names, best)"),
    "a sequence": ("seq(float[n, 32]) parts", "parts = SplitToSequence <axis = 1> (a, half)"),
    "integers": ("int64[n] best", BEST),
    "maps": (
        "seq(map(int64, float)) scores",
        f"scores = ai.onnx.ml.ZipMap <classlabels_int64s = [{CLASSES}]> (a)",
    ),
}


@pytest.mark.parametrize("target", ["ort-cpu", "portable"])
@pytest.mark.parametrize("preset", ["lift", "w4", "bct-plus"])
@pytest.mark.parametrize("kind", OUTPUTS)
def test_outputs_of_every_kind(kind: str, preset: str, target: str, tmp_path: Path) -> None:
    if (kind, target) == ("maps", "portable"):
        pytest.skip("ZipMap is no operator of the default domain")
    outputs, body = OUTPUTS[kind]
    text = f"net (float[n, 64] x) => ({outputs}) {{ t = MatMul (x, w)  r = Identity (t)  a = Tanh (r)  {body} }}"
    used = {"names": np.array([f"class {i}" for i in range(64)], object), "half": np.array(32)}
    arrays = {name: array for name, array in used.items() if name in body}
    source, out = _source(tmp_path, text, w=W, **arrays), tmp_path / "out.onnx"
    report = rewrite(source, preset, target=target, options=Options(out))
    assert differences(onnx.load(source), onnx.load(out)) == []
    assert report.parity is not None
    if preset == "lift":
        assert report.parity.exact
    if "texts" in kind:
        equal, total = report.parity.outputs["label"].texts or (0, 0)
        assert total == 6 and (equal == 6 or preset != "lift")


def test_an_input_that_no_runtime_loads_is_named_as_such(tmp_path: Path) -> None:
    source = _source(tmp_path, "net (float[n, 64] x) => (float[n, 64] y) { a = MatMul (x, w)  y = Tanh (a) }", w=W)
    model = ir.load(source)
    model.graph[-1].op_type = "Tahn"
    with pytest.raises(InputModelError, match="cannot load the input model"):
        rewrite(model, "w4")


@pytest.mark.parametrize("only", [False, True])
def test_shapes_that_depend_on_values(only: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the length of speech that is synthesized: a result with another one is no fault."""
    outputs = "int64[2, k] y" if only else "float[n, 64] a, int64[2, k] y"
    text = f"net (float[n, 64] x) => ({outputs}) {{ a = MatMul (x, w)  t = Relu (a)  y = NonZero (t) }}"
    said = _said(_source(tmp_path, text, w=W), "w4", capsys)
    assert "y says nothing: its shape depends on values" in said and ("SQNR" in said) != only
