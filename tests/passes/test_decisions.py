"""Small models that hand out the best class keep 8 bits: 4 change one answer in eight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from bct_onnx.graph.decisions import decides_and_is_small
from bct_onnx.registry import parse
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.session import run, session
from tests.passes.small import apply, model, normal

TEXT = """g (float[n,64] x) => (float[n,64] scores, int64[n] best) {{
    hidden = MatMul (x, first)
    active = Relu (hidden)
    scores = MatMul (active, second)
    sizes = Shape (scores)
    best = {best} }}"""
ARGMAX = "ArgMax <axis = -1, keepdims = 0> (scores)"
COUNTED = "Identity (sizes)"


@pytest.mark.parametrize(
    ("best", "inner", "kind"),
    [(ARGMAX, 192, ir.DataType.INT8), (ARGMAX, 4096, ir.DataType.INT4), (COUNTED, 192, ir.DataType.INT4)],
)
def test_eight_bits_where_decisions_are_handed_out_and_it_costs_nothing(
    best: str, inner: int, kind: ir.DataType
) -> None:
    target = model(TEXT.format(best=best), first=normal(64, inner), second=normal(inner, 64))
    assert decides_and_is_small(target) == (kind == ir.DataType.INT8)
    (one,) = parse("quantize-weights")
    applied = apply(one, target)
    assert ("option formats=4/32:*" in applied.note) == (kind == ir.DataType.INT8)
    kinds = {value.dtype for name, value in target.graph.initializers.items() if name.endswith(".codes")}
    assert kinds == {kind}


def test_what_is_asked_for_by_name_counts() -> None:
    target = model(TEXT.format(best=ARGMAX), first=normal(64, 192), second=normal(192, 64))
    (one,) = parse("quantize-weights{formats=4/32:second}")
    apply(one, target)
    codes = {name: value.dtype for name, value in target.graph.initializers.items() if name.endswith(".codes")}
    assert codes == {"first.codes": ir.DataType.INT8, "second.codes": ir.DataType.INT4}


def test_fewer_bits_can_be_asked_for_as_the_report_says() -> None:
    target = model(TEXT.format(best=ARGMAX), first=normal(64, 192), second=normal(192, 64))
    (one,) = parse("quantize-weights{formats=4/32:*}")
    apply(one, target)
    kinds = {value.dtype for name, value in target.graph.initializers.items() if name.endswith(".codes")}
    assert kinds == {ir.DataType.INT4}


@pytest.mark.parametrize(("best", "per"), [(ARGMAX, "token"), ("Identity (ids)", "static")])
def test_ranges_of_random_inputs_decide_nothing(best: str, per: str) -> None:
    """With 8 bits in the weights static scales took 9 dB, which 4 bits hide."""
    text = TEXT.replace("float[n,64] x", "int64[n,64] ids").replace("hidden =", "x = Gather (table, ids)  hidden =")
    text = text.replace("[n] best", "[n,64] best").replace("[n,64] scores", "[n,64,64] scores")
    target = model(text.format(best=best), table=normal(100, 64), first=normal(64, 192), second=normal(192, 64))
    for one in parse("calibrate,quantize-embeddings,quantize-weights,quantize-activations{per=static}"):
        applied = apply(one, target)
    notes = [site.note for site in applied.sites]
    assert notes and all(("per token" in note) == (per == "token") for note in notes), notes


@pytest.mark.parametrize("preset", ["bct-plus", "fast", "w4a8", "w4a8-nearest"])
def test_names_of_classes_stay(tmp_path: Path, preset: str) -> None:
    rng = np.random.default_rng(0)
    weights = {
        "first": (rng.standard_normal((64, 192)) / 8).astype(np.float32),
        "second": (rng.standard_normal((192, 64)) / 14).astype(np.float32),
        "names": np.array([f"class {number}" for number in range(64)], object),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("MatMul", ["active", "second"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["best"], axis=-1, keepdims=0),
        helper.make_node("Gather", ["names", "best"], ["label"]),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("label", TensorProto.STRING, ["n"])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    source, result = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), source)
    rewrite(source, preset, options=Options(result))
    feeds = {"x": rng.standard_normal((2000, 64)).astype(np.float32)}
    (before,), (after,) = (run(session(path), feeds) for path in (source, result))
    assert np.mean(before == after) > 0.97
    assert result.stat().st_size < source.stat().st_size / 2.5
