"""What `fuse-attention` promises beyond its golden cases: masked rows, shared masks, names, provenance."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bct_onnx import Options, rewrite
from bct_onnx.graph import provenance, shapes
from bct_onnx.graph.tensors import Array
from bct_onnx.runtime.session import run, session
from passes.fuse_attention import FuseAttention
from passes.guard_attention import GuardAttention

LOW = float(np.finfo(np.float32).min)
HEAD = '<ir_version: 10, opset_import: ["": 23]>'


def model(text: str) -> ir.Model:
    parsed = ir.from_onnx_text(f"{HEAD} {text}")
    shapes.infer(parsed)
    return parsed


def layers(count: int) -> ir.Model:
    """Self-attention ``count`` times in a row under one mask ``[b, 1, 1, s]``."""
    body = "".join(
        f"""t{i} = Transpose <perm = [0, 1, 3, 2]> (x{i})  p{i} = MatMul (x{i}, t{i})  a{i} = Add (p{i}, m)
        w{i} = Softmax (a{i})  x{i + 1} = MatMul (w{i}, x{i}) """
        for i in range(count)
    )
    return model(f"g (float[b,2,s,4] x0, float[b,1,1,s] m) => (float[b,2,s,4] x{count}) {{ {body} }}")


def count(parsed: ir.Model, op_type: str) -> int:
    return sum(node.op_type == op_type for node in parsed.graph.all_nodes())


def outputs(parsed: ir.Model, feeds: dict[str, Array]) -> Array:
    return run(session(parsed, optimize="disabled"), feeds)[0]


@pytest.mark.parametrize("low", [LOW, -1e9, -1e4])
def test_rows_of_which_every_key_is_masked_stay_what_they_were(low: float) -> None:
    random = np.random.default_rng(0)
    mask = np.zeros((3, 1, 1, 5), np.float32)
    mask[0], mask[1, ..., 2:] = low, low
    feeds = {"x0": random.normal(size=(3, 2, 5, 4)).astype(np.float32), "m": mask}
    parsed = layers(1)
    before = outputs(parsed, feeds)
    assert FuseAttention()(parsed).modified
    np.testing.assert_allclose(outputs(parsed, feeds), before, rtol=0, atol=1e-6)


def test_rows_masked_by_infinity_give_zeros_as_the_guard_does() -> None:
    """In every runtime: `guard-attention`, which every target has, writes the guard anew."""
    parsed = model(
        """g (float[b,2,s,4] x, bool[b,1,s,s] m) => (float[b,2,s,4] y)
        <float low = {-inf}, float zero = {0}>
        { t = Transpose <perm = [0, 1, 3, 2]> (x)  p = MatMul (x, t)  a = Where (m, p, low)  w = Softmax (a)
          n = IsNaN (w)  g = Where (n, zero, w)  y = MatMul (g, x) }"""
    )
    random = np.random.default_rng(0)
    mask = random.random((2, 1, 5, 5)) < 0.5
    mask[0, 0, 3] = False
    feeds = {"x": random.normal(size=(2, 2, 5, 4)).astype(np.float32), "m": mask}
    before = outputs(parsed, feeds)
    assert FuseAttention()(parsed).modified
    assert GuardAttention()(parsed).modified
    after = outputs(parsed, feeds)
    assert not after[0, :, 3].any()
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6)


def test_layers_under_one_mask_share_what_is_made_of_it() -> None:
    parsed = layers(3)
    FuseAttention()(parsed)
    assert (count(parsed, "Attention"), count(parsed, "Expand"), count(parsed, "Max")) == (3, 1, 1)
    onnx.checker.check_model(ir.to_proto(parsed), full_check=True)


def test_a_second_run_changes_nothing() -> None:
    parsed = layers(2)
    FuseAttention()(parsed)
    again = FuseAttention().apply(parsed)
    assert (again.sites, again.declined) == ((), ())


def test_new_nodes_say_what_they_replaced_and_outputs_keep_their_names() -> None:
    parsed = layers(1)
    for node in parsed.graph:
        node.name = f"old_{node.op_type}"
    FuseAttention()(parsed)
    (node,) = [node for node in parsed.graph if node.op_type == "Attention"]
    assert node.metadata_props[provenance.PASS] == "fuse-attention"
    assert {"old_MatMul", "old_Softmax"} <= set(node.metadata_props[provenance.REPLACED].split())
    assert [value.name for value in parsed.graph.outputs] == ["x1"]


def test_attention_inside_of_a_branch() -> None:
    parsed = model(
        """g (bool c, float[b,2,s,4] x) => (float[b,2,s,4] y)
        { y = If (c) <then_branch = yes () => (float[b,2,s,4] a) {
            t = Transpose <perm = [0, 1, 3, 2]> (x)  p = MatMul (x, t)  w = Softmax (p)  a = MatMul (w, x) },
          else_branch = no () => (float[b,2,s,4] n) { n = Neg (x) }> }"""
    )
    FuseAttention()(parsed)
    assert (count(parsed, "Attention"), count(parsed, "MatMul")) == (1, 0)
    onnx.checker.check_model(ir.to_proto(parsed), full_check=True)


def test_a_mask_of_more_texts_than_queries_stays_where_it_is() -> None:
    """One sound and the lengths of several: the scores become several by the mask, which Attention refuses."""
    parsed = model(
        """g (float[1,2,s,4] x, float[b,1,s,s] m) => (float[b,2,s,4] y)
        { t = Transpose <perm = [0, 1, 3, 2]> (x)  p = MatMul (x, t)  a = Add (p, m)  w = Softmax (a)
          y = MatMul (w, x) }"""
    )
    applied = FuseAttention()(parsed)
    assert count(parsed, "Attention") == 0
    assert [one.reason for one in applied.declined] == ["its mask has more texts or heads than its queries"]


@pytest.mark.parametrize(
    "target", ["ort-cpu", "ort-cpu-integer", "ort-cpu@1.18", "portable", "web", "webgpu", "openvino"]
)
def test_guarded_layers_stay_exact_under_padding_on_the_left(target: str) -> None:
    """What queries give that see padding alone reaches all tokens in the next layer if it is NaN."""
    layers = "".join(
        f"""t{i} = Transpose <perm = [0, 1, 3, 2]> (x{i})  p{i} = MatMul (x{i}, t{i})  a{i} = Where (m, p{i}, low)
        w{i} = Softmax (a{i})  n{i} = IsNaN (w{i})  g{i} = Where (n{i}, zero, w{i})  x{i + 1} = MatMul (g{i}, x{i}) """
        for i in range(2)
    )
    parsed = model(
        f"""g (float[b,2,s,4] x0, bool[b,1,1,s] attention_mask, bool[s,s] causal) => (float[b,2,s,4] x2)
        <float low = {{-inf}}, float zero = {{0}}> {{ m = And (attention_mask, causal) {layers} }}"""
    )
    mask = np.arange(5) >= np.array([[3], [0], [5]])
    feeds = {
        "x0": np.random.default_rng(0).normal(size=(3, 2, 5, 4)).astype(np.float32),
        "attention_mask": mask[:, None, None],
        "causal": np.tril(np.ones((5, 5), bool)),
    }
    before = outputs(parsed, feeds)
    assert np.isfinite(before).all() and not before[0, :, :3].any() and before[0, :, 3:].all()
    rewrite(parsed, "lift", target=target, options=Options(check=False))
    np.testing.assert_allclose(run(session(parsed), feeds)[0], before, rtol=0, atol=1e-5)
