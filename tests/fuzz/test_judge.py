"""What fuzzing takes for a failure, and what not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from bct_onnx.graph.load import load
from bct_onnx.runtime.session import run, session
from tests.fuzz.cases import Case
from tests.fuzz.judge import _as_it_is, _source, contradiction, declares_truly, judge
from tests.fuzz.rounding import is_noise, same_with_codes_divided_in_float32
from tests.graph import handmade

HEAD = '<ir_version: 10, opset_import: ["" : 23]>'
CACHE = """<ir_version: 10, opset_import: ["" : 23]>
    g (float[b, past, 4] past, float[b, s, 4] x) => (float[b, s, wide] y) {{
        k = Neg (x)  y = Concat <axis = {axis}> (past, k) }}"""


@pytest.mark.parametrize(("axis", "sound"), [(1, True), (2, False)])
def test_operators_that_the_runtime_runs_against_their_definition(tmp_path: Path, axis: int, sound: bool) -> None:
    """Part of such a result is whatever was in memory: another one every time, and now and then NaN."""
    proto = handmade.model(CACHE.format(axis=axis))
    proto.graph.value_info.add(name="k").type.CopyFrom(onnx.helper.make_tensor_type_proto(1, [7]))  # plays no part
    path = handmade.write(proto, tmp_path / "in.onnx")
    feeds = {"past": np.zeros((2, 0, 4), np.float32), "x": np.ones((2, 6, 4), np.float32)}
    found = contradiction(load(path), feeds)
    assert (found == "") is sound and ("Concat" in found) is not sound


@pytest.mark.parametrize(
    ("dims", "true"), [([2, 8], True), (["n", 8], True), (None, True), ([1, 2, 8], False), ([2, 7], False)]
)
def test_declarations_of_values_between_nodes_are_tried(dims: list[int | str] | None, true: bool) -> None:
    """Squeeze without axes: no inference knows what it gives."""
    proto = handmade.model(f"{HEAD} g (float[n, 1, 8] x) => (float[a, b] y) {{ k = Squeeze (x)  y = Neg (k) }}")
    proto.graph.value_info.add(name="k").type.CopyFrom(onnx.helper.make_tensor_type_proto(1, dims))
    assert declares_truly(proto, [{"x": np.ones((2, 1, 8), np.float32)}]) is true


def test_weights_at_the_end_of_float32_are_not_judged(tmp_path: Path) -> None:
    for largest, sound in ((1e10, True), (3e38, False)):
        text = f"{HEAD} g (float[n, 8] x) => (float[n, 8] y) {{ y = MatMul (x, w) }}"
        proto = handmade.model(text, w=np.float32(largest) * np.eye(8, dtype=np.float32))
        assert _source(handmade.write(proto, tmp_path / "in.onnx"), honest=True).finite is sound


def test_a_pass_may_fix_the_sizes_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = HEAD + """ g (float[n, s, 8] x) => (float[n, s, 8] y) { y = Neg (x) }"""
    monkeypatch.setattr(Case, "write", lambda _, folder: handmade.write(handmade.model(text), folder / "in.onnx"))
    monkeypatch.setattr(Case, "pipeline", lambda _: ("fix-shapes{dims=n=3|s=4}", "portable"))
    verdict = judge(Case(0, 0), tmp_path, lambda _: None, try_source=True)
    assert (verdict.failed, verdict.kind) == (False, "done, outputs agree"), verdict.detail


def test_what_the_runtime_rounds_in_fusions_is_no_fault_of_a_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fuses products with int8 weights that nothing else reads; before, a dead node did.

    The lowering of weights, which promises less, does not run: it stands before what is asked for.
    """
    text = """<ir_version: 10, opset_import: ["" : 23]> g (float[n, 64] x) => (float[n, 32] y) {
        w = DequantizeLinear <axis = 1> (codes, scale)  r = Relu (x)  y = MatMul (r, w)
        again = DequantizeLinear <axis = 1> (codes, scale) }"""
    rng = np.random.default_rng(0)
    arrays = {"codes": rng.integers(-64, 64, (64, 32), np.int8), "scale": rng.random(32, np.float32)}
    made = handmade.model(text, **arrays)
    monkeypatch.setattr(Case, "write", lambda _, folder: handmade.write(made, folder / "in.onnx"))
    monkeypatch.setattr(Case, "pipeline", lambda _: ("lift,lower-quantize{form=standard},clean-up", "portable"))
    verdict = judge(Case(0, 0), tmp_path, lambda _: None, try_source=True)
    assert not verdict.failed and verdict.kind.startswith("done, outputs agree"), verdict.detail


@pytest.mark.parametrize(("declared", "honest"), [("32", True), ("33", False), ("wide", True)])
def test_outputs_are_compared_with_what_the_file_declares(tmp_path: Path, declared: str, honest: bool) -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 23]> g (float[n, 64] x) => (float[n, {declared}] y) {{
        y = MatMul (x, w) }}"""
    path = handmade.write(handmade.model(text, w=np.ones((64, 32), np.float32)), tmp_path / "in.onnx")
    assert _source(path, honest=True).honest is honest


def test_an_output_of_another_size_than_declared_need_not_keep_it(tmp_path: Path) -> None:
    path = handmade.write(
        handmade.model(f"{HEAD} g (float[n, 8] x) => (float[n, 7] y) {{ y = Neg (x) }}"), tmp_path / "in"
    )
    (output,) = _as_it_is(path, _source(path, honest=True)).graph.output
    assert output.type.tensor_type.elem_type == 1 and not output.type.tensor_type.HasField("shape")


@pytest.mark.parametrize(
    ("divided", "noise"), [("s = ReduceSum (m, axes)  y = Div (m, s)", True), ("y = Neg (m)", False)]
)
def test_a_source_that_is_noise_is_told_by_its_inputs_alone(tmp_path: Path, divided: str, noise: bool) -> None:
    """A normalization divided by its own sum, which is 0 but for rounding; beside it a result that is wrong."""
    axes = {"axes": np.array([1])} if noise else {}
    text = f"{HEAD} g (float[n, 8] x) => (float[n, 8] y) {{ m = LayerNormalization (x, half)  {divided} }}"
    proto = handmade.model(text, half=np.full(8, 0.5, np.float32), **axes)
    source = handmade.write(proto, tmp_path / "in.onnx")
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.full(8, 0.6, np.float32), "half"))
    result = handmade.write(proto, tmp_path / "out.onnx")
    feeds = {"x": np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)}
    assert is_noise(source, result, feeds) is noise


@pytest.mark.since("1.24", "older ones have no QuantizeLinear of opset 23")
@pytest.mark.parametrize(("point", "same"), [(120, True), (121, False)])
def test_codes_of_float16_are_those_of_a_division_in_float32(tmp_path: Path, point: int, same: bool) -> None:
    """-1.87 / 0.02 is -93.49, and -93.5 in float16; another zero point stays a fault."""
    text = """<ir_version: 10, opset_import: ["" : {opset}]> g (float16[n] x) => (uint8[n] y) {{
        y = QuantizeLinear (x, scale, point) }}"""
    scale, x = np.array(9503, np.uint16).view(np.float16), np.array([-1.87, 0.6], np.float16)
    paths = []
    for opset, zero in ((23, 120), (21, point)):
        proto = handmade.model(text.format(opset=opset), scale=scale, point=np.array(zero, np.uint8))
        paths.append(handmade.write(proto, tmp_path / f"{opset}.onnx"))
    before, after = (run(session(path), {"x": x})[0] for path in paths)
    assert (before != after).any()
    assert same_with_codes_divided_in_float32(paths[0], paths[1], {"x": x}) is same
