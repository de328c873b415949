"""What fuzzing has found: each was once another exception, a wrong result, or a name that was lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from bct_onnx.errors import GateError, InputModelError, TargetError
from bct_onnx.forms import codes
from bct_onnx.forms.attention import width_of
from bct_onnx.forms.linear import bias_of
from bct_onnx.graph.load import load
from bct_onnx.graph.unused import remove_unused_nodes
from bct_onnx.report import Report
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.session import run, session
from passes.fuse_attention import FuseAttention
from passes.fuse_layer_norm import FuseLayerNorm
from passes.integer_attention import IntegerAttention
from passes.merge_products import _columns
from tests.graph import handmade
from tests.interface import differences

HEAD = '<ir_version: 10, opset_import: ["" : 23]>'
WEIGHT = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
ATTENTION = f"""{HEAD} g (float[b,2,s,4] q, float[b,2,s,4] k, float[b,2,s,4] v) => (float[b,2,s,four] y) {{
    t = Transpose <perm = [0, 1, 3, 2]> (k)  p = MatMul (q, t)  w = Softmax (p)  y = MatMul (w, v) }}"""


def rewritten(
    folder: Path, text: str, passes: str, target: str = "portable", **arrays: np.ndarray[Any, Any]
) -> tuple[Report, onnx.ModelProto, onnx.ModelProto]:
    """The report, the input and the result."""
    source = handmade.write(handmade.model(text, **arrays), folder / "in.onnx")
    report = rewrite(source, passes, target=target, options=Options(folder / "out.onnx"))
    return report, onnx.load(source), onnx.load(folder / "out.onnx")


def test_activations_in_blocks_are_not_lowered_as_if_they_had_one_scale_per_token(tmp_path: Path) -> None:
    """With as many blocks as columns this was a wrong result, with others one that cannot run."""
    text = f"{HEAD} g (float[n, 64] x) => (float[n, 32] y) {{ y = MatMul (x, w) }}"
    passes = "quantize-weights,quantize-activations{per=block block=2}"
    report, _, _ = rewritten(tmp_path, text, passes, "ort-cpu", w=WEIGHT)
    (lowering,) = (step for step in report.steps if step.text.startswith("lower-weights"))
    assert "no kernel" in lowering.declined[0].reason
    x = np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32)
    (before,), (after,) = (run(session(tmp_path / name), {"x": x}) for name in ("in.onnx", "out.onnx"))
    assert np.abs(after - before).max() < 0.1 * np.abs(before).max()


def test_a_mask_beyond_memory_is_tried_at_another_size(tmp_path: Path) -> None:
    text = f"""{HEAD}
        g (float[b,2,s,4] q, float[b,2,s,4] k, float[b,2,s,4] v, float[1,1,4000000000000,s] mask) => (y) {{
        t = Transpose <perm = [0, 1, 3, 2]> (k)  p = MatMul (q, t)  m = Add (p, mask)  w = Softmax (m)
        y = MatMul (w, v) }}"""
    _, before, after = rewritten(tmp_path, text, "lift")
    assert "Attention" in [node.op_type for node in after.graph.node]
    assert differences(before, after) == []


def test_outputs_keep_what_they_declare(tmp_path: Path) -> None:
    _, before, after = rewritten(tmp_path, ATTENTION, "lift")
    assert [node.op_type for node in after.graph.node] == ["Attention"]
    assert differences(before, after) == []


@pytest.mark.parametrize("declared", ["float[n]", "float[a, b, c]", ""])
def test_an_output_that_is_an_input_is_of_the_inputs_type(tmp_path: Path, declared: str) -> None:
    proto = handmade.model(f"{HEAD} g (float[n, 64] x) => (float[n, 32] y) {{ y = MatMul (x, w) }}", w=WEIGHT)
    proto.graph.output.add(name="x")
    if declared:
        proto.graph.output[-1].type.CopyFrom(helper.make_tensor_type_proto(1, declared[6:-1].split(", ")))
    rewrite(handmade.write(proto, tmp_path / "in.onnx"), "w4", options=Options(tmp_path / "out.onnx"))
    result = onnx.load(tmp_path / "out.onnx").graph
    assert [info.name for info in result.output] == ["y", "x"]
    assert result.output[1].type == result.input[0].type == proto.graph.input[0].type


def test_nothing_is_published_that_cannot_be_loaded_where_the_input_does_not_run(tmp_path: Path) -> None:
    """The input loads but runs on no sample, so outputs cannot be compared; the result has to load all the same."""
    text = f"""{HEAD} g (float[n, 64] x) => (float[a, b, c] y) {{
        h = MatMul (x, w)  bad = Constant <value_ints = [7, 7, 7]> ()  y = Reshape (h, bad) }}"""
    report, _, _ = rewritten(tmp_path, text, "w4", "ort-cpu", w=WEIGHT)
    assert "does not run on made-up inputs" in report.unchecked
    session(tmp_path / "out.onnx")


@pytest.mark.parametrize("size", [2**40, 2**62])
def test_inputs_too_large_to_be_made(tmp_path: Path, size: int) -> None:
    proto = handmade.model(f"{HEAD} g (float[n, 64] x) => (float[n, 32] y) {{ y = MatMul (x, w) }}", w=WEIGHT)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = size
    handmade.write(proto, tmp_path / "in.onnx")
    try:
        report = rewrite(tmp_path / "in.onnx", "fast", options=Options(tmp_path / "out.onnx"))
    except TargetError as error:  # ONNX Runtime refuses some of them by itself
        assert "load" in error.what
    else:
        assert "no values" in report.unchecked or "is declared as" in report.unchecked


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (helper.make_node("MatMul", ["x"], ["y"]), "1 inputs, not 2 to 2"),
        (helper.make_node("MatMul", ["x", ""], ["y"]), "input 'B' is missing"),
        (helper.make_node("Relu", ["x"], ["y", "z"]), "2 outputs, not 1 to 1"),
        (helper.make_node("Concat", ["x"], ["y"]), "no attribute 'axis'"),
        (helper.make_node("Concat", ["x"], ["y"], axis="1"), "is of type STRING, not INT"),
        (helper.make_node("Relu", ["x"], ["y"], alpha=1), "'alpha', which is not known"),
        (helper.make_node("Gelu", ["x"], ["y"], approximate=b"\xff\xfe"), "'approximate' is no text in UTF-8"),
        (helper.make_node("Constant", [], ["y"]), "it has 0 values"),
        (helper.make_node("Constant", [], ["y"], value_int=1, value_float=2.0), "it has 2 values"),
    ],
)
def test_operators_are_used_as_defined(tmp_path: Path, node: onnx.NodeProto, why: str) -> None:
    proto = handmade.model(f"{HEAD} g (float[n, 64] x) => (float[n, 64] y) {{ y = Relu (x) }}")
    for nested in (False, True):
        proto.graph.node[0].CopyFrom(node)
        if nested:
            branch = onnx.GraphProto(name="b", node=[node], output=[onnx.ValueInfoProto(name="y")])
            made = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
            proto.graph.node[0].CopyFrom(made)
            proto.graph.input.add(name="c").type.CopyFrom(helper.make_tensor_type_proto(9, []))
        with pytest.raises(InputModelError, match=f"a node is no {node.op_type} of opset 23") as caught:
            load(handmade.write(proto, tmp_path / "in.onnx"))
        assert why in caught.value.why


def test_attributes_of_functions_outside_of_one(tmp_path: Path) -> None:
    proto = handmade.model(f"{HEAD} g (float[n] x) => (float[n] y) {{ y = Elu <alpha = 1.0> (x) }}")
    proto.graph.node[0].attribute[0].ref_attr_name = "alpha"
    with pytest.raises(InputModelError, match="stands for one of a function"):
        load(handmade.write(proto, tmp_path / "in.onnx"))


@pytest.mark.parametrize(
    "body",
    [
        "s = Mul (x, x)  v = ReduceMean (s, last)  e = Add (eps, v)  q = Sqrt (e)  n = Div (x, q)  y = Mul (n, tall)",
        "y = Slice (x, one, two, one)",
        "huge = Constant <value_ints = [-1, 2147483647, 8]> ()  y = Reshape (x, huge)",
    ],
)
def test_operands_that_do_not_fit_are_no_crash(tmp_path: Path, body: str) -> None:
    arrays: dict[str, Any] = {
        "last": np.array([-1]), "one": np.array([0]), "two": np.array([1, 2]), "eps": np.array(1e-6, np.float32),
        "tall": np.ones((8, 1), np.float32), "w": WEIGHT,
    }  # fmt: skip
    text = f"""{HEAD} g (float[a, b, 8] x, float[a, 64] z) => (float[c, d, e] y, float[a, 32] m) {{
        m = MatMul (z, w) {body} }}"""
    try:
        rewritten(tmp_path, text, "w4", **arrays)
    except (TargetError, GateError, InputModelError) as error:
        assert error.what


@pytest.mark.parametrize("passes", ["quantize-weights{bits=3},lower-qdq", "quantize-embeddings,lower-qdq"])
def test_branches_share_a_weight_that_is_decoded_outside_of_them(tmp_path: Path, passes: str) -> None:
    """It was decoded in the first branch, where the other one does not see it."""
    text = f"""{HEAD} g (float[n, 64] x, int64[n] i, bool c) => (float[n, 32] y) {{
        y = If (c) <
            then_branch = one () => (float[n, 32] a) {{ r = Gather (t, i)  h = Add (r, x)  a = MatMul (h, w) }},
            else_branch = two () => (float[n, 32] b) {{ q = Gather (t, i)  k = Sub (x, q)  b = MatMul (k, w) }}>
    }}"""
    table = np.random.default_rng(1).standard_normal((40, 64)).astype(np.float32)
    report, _, after = rewritten(tmp_path, text, passes, w=WEIGHT, t=table)
    assert sum(len(step.sites) for step in report.steps if step.text.startswith("lower-qdq")) == 2
    assert [node.op_type for node in after.graph.node].count("DequantizeLinear") == 1
    feeds: dict[str, np.ndarray[Any, Any]] = {"x": np.ones((3, 64), np.float32), "i": np.arange(3)}
    for branch in (True, False):
        before, now = (run(session(tmp_path / n), feeds | {"c": np.array(branch)})[0] for n in ("in.onnx", "out.onnx"))
        assert np.abs(now - before).max() < 0.2 * np.abs(before).max()


def test_values_without_channels_have_no_range(tmp_path: Path) -> None:
    text = f"""{HEAD} g (float[n, s, 64] x) => (float[n, s, 0] h, float[n, s, 0] y) {{
        z = Neg (x)  h = MatMul (z, w)  y = Neg (h) }}"""
    passes = "calibrate{samples=4},quantize-dataflow{bits=8}"
    with pytest.raises(GateError, match="nothing was changed"):
        rewritten(tmp_path, text, passes, w=np.ones((64, 0), np.float32))


def test_what_branches_of_a_dead_choice_read_is_dead_too() -> None:
    """A table was quantized for a Gather in a graph that was gone."""
    text = f"""{HEAD} g (float[n, 64] x, int64[n] i, bool c) => (float[n, 64] x) {{
        dead = If (c) <then_branch = one () => (float[n, 64] a) {{
            a = If (c) <then_branch = two () => (float[n, 64] b) {{ b = Gather (t, i) }},
                        else_branch = three () => (float[n, 64] d) {{ d = Gather (t, i) }}> }},
                       else_branch = four () => (float[n, 64] e) {{ e = Identity (x) }}> }}"""
    model = ir.from_proto(handmade.model(text, t=np.ones((40, 64), np.float32)))
    remove_unused_nodes(model)
    assert not list(model.graph) and not model.graph.initializers


def test_an_attention_of_what_is_declared_a_scalar() -> None:
    """Queries whose declared shape has no axes: there is no last one to look at."""
    (*_, attention) = FuseAttention()(ir.from_proto(handmade.model(ATTENTION))).model.graph
    queries = attention.inputs[0]
    assert attention.op_type == "Attention" and queries is not None and width_of(attention, 0) == 4
    queries.shape = ir.Shape([])
    assert width_of(attention, 0) == 0


def test_a_cast_to_no_type_is_no_norm() -> None:
    """The reference evaluator looks the type up in a table that has it not."""
    text = f"""{HEAD} g (float16[n, 8] x) => (float16[n, 8] y) {{
        f = Cast <to = 1> (x)  last = Constant <value_ints = [-1]> ()  m = ReduceMean (f, last)  c = Sub (f, m)
        two = Constant <value = float {{2.0}}> ()  s = Pow (c, two)  v = ReduceMean (s, last)
        small = Constant <value = float {{1e-5}}> ()  e = Add (v, small)  r = Sqrt (e)  d = Div (c, r)
        h = Cast <to = 0> (d)  g = Mul (h, w)  y = Add (g, w) }}"""
    model = ir.from_proto(handmade.model(text, w=np.ones(8, np.float16)))
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    FuseLayerNorm()(model)
    assert any(node.op_type == "Cast" and node.attributes["to"].as_int() == 0 for node in model.graph)


def test_what_is_declared_of_a_weight_beside_its_data_plays_no_part(tmp_path: Path) -> None:
    """Its one column was balanced like the eight that were declared."""
    text = f"{HEAD} g (float[n, 8] x) => (float[n, 1] y) {{ y = MatMul (x, w) }}"
    proto = handmade.model(text, w=np.ones((8, 1), np.float32))
    proto.graph.value_info.add(name="w").type.CopyFrom(helper.make_tensor_type_proto(1, [8, 8]))
    weight = load(handmade.write(proto, tmp_path / "in.onnx")).graph.initializers["w"]
    assert weight.shape == ir.Shape([8, 1])


def test_a_weight_tells_its_columns_better_than_what_is_declared_of_the_product() -> None:
    """One column got the bias of the eight that the sum has."""
    text = f"""{HEAD} g (float[n, s, 8] x) => (float[n, s, 8] y) {{
        h = Neg (x)  m = MatMul (h, w)  a = Add (m, b)  y = Add (h, a) }}"""
    proto = handmade.model(text, w=np.ones((8, 1), np.float32), b=np.ones(8, np.float32))
    for name in ("m", "a", "h"):
        proto.graph.value_info.add(name=name).type.CopyFrom(helper.make_tensor_type_proto(1, ["n", "s", 8]))
    assert bias_of(ir.from_proto(proto).graph[1]) == (None, None)


@pytest.mark.parametrize(("point", "found"), [("z", True), ("", False)])
def test_a_quantizer_without_a_zero_point_is_none_that_functions_of_codes_replace(point: str, found: bool) -> None:
    """Integer functions take one, and a table is made from it."""
    text = f"""{HEAD} g (float[n] x) => (uint8[n] y) <float s = {{0.1}}, uint8 z = {{3}}> {{
        h = Neg (x)  y = QuantizeLinear (h, s, {point or '""'}) }}"""
    graph = ir.from_proto(handmade.model(text)).graph
    assert len(graph[1].inputs) == 3
    assert (codes.quantized(graph[0].outputs[0]) is not None) is found


def test_an_attention_of_more_heads_than_channels() -> None:
    """Heads of no length have no scale of scores."""
    text = f"""{HEAD} g (uint8[b, s, 4] q) => (uint8[b, s, 4] y) <float f = {{0.1}}, uint8 z = {{128}}> {{
        d = DequantizeLinear (q, f, z)
        a = Attention <q_num_heads = 8, kv_num_heads = 8> (d, d, d)  y = QuantizeLinear (a, f, z) }}"""
    model = ir.from_proto(handmade.model(text))
    model.graph[0].outputs[0].shape = model.graph.inputs[0].shape
    applied = IntegerAttention().call(model)
    assert not applied.sites and "their size is not known" in applied.declined[0].reason


@pytest.mark.parametrize(("declared", "columns"), [(32, 32), (-5, 0)])
def test_a_negative_number_of_columns_is_none(declared: int, columns: int) -> None:
    graph = ir.from_proto(handmade.model(f"{HEAD} g (float[n, 64] x) => (float[n, 32] y) {{ y = Neg (x) }}")).graph
    graph[0].outputs[0].shape = ir.Shape([None, declared])
    assert _columns(graph[0]) == columns


def test_an_input_beyond_memory_is_not_made(tmp_path: Path) -> None:
    """Drawing it took all memory; the model is not checked then, and nothing is calibrated."""
    text = f"""{HEAD} g (float[1, 64, 20000, 70000] x) => (float[1, 32] y) {{
        m = ReduceMean <keepdims = 0> (x, axes)  y = MatMul (m, w) }}"""
    report, _, _ = rewritten(tmp_path, text, "fast", w=WEIGHT, axes=np.array([2, 3]))
    assert "89,600,000,000 values" in report.unchecked


def test_a_node_that_leaves_its_branch_gets_a_name_of_its_own(tmp_path: Path) -> None:
    """ONNX Runtime refuses two nodes of one name in one graph; in a graph and its branch they may have it."""
    text = f"""{HEAD} g (float[n, 64] x) => (float[n, 32] y) <bool yes = {{1}}> {{
        t = Tanh (x)
        y = If (yes) <then_branch = a () => (float[n, 32] p) {{ u = Tanh (t)  p = MatMul (u, w) }},
                      else_branch = b () => (float[n, 32] q) {{ q = MatMul (t, w) }}> }}"""
    proto = handmade.model(text, w=WEIGHT)
    branches = [attribute.g for attribute in proto.graph.node[1].attribute]
    proto.graph.node[0].name = branches[0].node[0].name = "same"
    source = handmade.write(proto, tmp_path / "in.onnx")
    rewrite(source, "lift", options=Options(tmp_path / "out.onnx"))
    x = np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32)
    (before,), (after,) = (run(session(tmp_path / name), {"x": x}) for name in ("in.onnx", "out.onnx"))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
