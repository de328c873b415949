"""What fuzzing has found in runs that were verified pass by pass, and in values that are quantized."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from bct_onnx.base import Applied
from bct_onnx.errors import InputModelError
from bct_onnx.forms import weights
from bct_onnx.graph.broadcast_norms import spread
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.session import run, session
from passes.clean_up import CleanUp
from passes.fuse_einsum import FuseEinsum
from passes.lower_portable import LowerPortable
from passes.remove_padding import RemovePadding
from passes.spell_attention import SpellAttention
from tests.fuzz.test_found import HEAD, WEIGHT, rewritten
from tests.graph import handmade


def test_quantizers_of_blocks_between_float16_are_computed_in_float32(tmp_path: Path) -> None:
    text = f"""{HEAD.replace("23", "21")} g (float16[n, 8] x) => (float16[n, 8] y, int8[n, 8] q)
        {{ q = QuantizeLinear <axis = -1, block_size = 4> (x, scale, points)
           y = DequantizeLinear <axis = -1, block_size = 4> (q, scale, points) }}"""
    random = np.random.default_rng(0)
    scale = random.uniform(0.01, 0.05, (3, 2)).astype(np.float16)
    points = random.integers(-90, 90, (3, 2)).astype(np.int8)
    _, before, after = rewritten(tmp_path, text, "lift", scale=scale, points=points)
    assert "block_size" not in str(after.graph.node)
    codes = random.integers(-30, 30, (3, 8)) + 0.2  # far from where a last bit decides how to round
    x = (codes * np.repeat(scale, 4, axis=1)).astype(np.float16)
    for got, want in zip(*(run(session(one.SerializeToString()), {"x": x}) for one in (after, before)), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.since("1.32", "older ones load no opset 28")
@pytest.mark.since("1.23", "older ones know no opset 28", package="onnx")
def test_an_opset_that_no_runtime_has_a_quantizer_for(tmp_path: Path) -> None:
    """Without normalize the model stays at it; passes are verified all the same, and the target finishes it."""
    head = HEAD.replace("23", "28").replace("10", "11")
    proto = handmade.model(f"{head} g (float[n, 64] x) => (float[n, 32] y) {{ y = MatMul (x, w) }}", w=WEIGHT)
    source = handmade.write(proto, tmp_path / "in.onnx")
    passes = "calibrate,quantize-weights,quantize-activations{noise=static per=static}"
    rewrite(source, passes, options=Options(tmp_path / "out.onnx", verify_each=True))
    x = np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32)
    (before,), (after,) = (run(session(tmp_path / name), {"x": x}) for name in ("in.onnx", "out.onnx"))
    assert np.abs(after - before).max() < 0.3 * np.abs(before).max()


def test_what_onnx_refuses_as_it_came_is_no_fault_of_a_pass(tmp_path: Path) -> None:
    """An output without a shape, which ONNX Runtime takes."""
    proto = handmade.model(f"{HEAD} g (float[n, 64] x) => (float[n, 32] y) {{ y = MatMul (x, w) }}", w=WEIGHT)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    source = handmade.write(proto, tmp_path / "in.onnx")
    rewrite(source, "calibrate,quantize-weights", options=Options(tmp_path / "out.onnx", verify_each=True))


def test_a_weight_that_is_an_output_keeps_its_numbers(tmp_path: Path) -> None:
    text = f"""{HEAD} g (float[n, 64] x) => (float[n, 32] y)
        {{ h = LayerNormalization <axis = -1> (x, gamma)  y = MatMul (h, w) }}"""
    gamma = np.ones(64, np.float32)
    gamma[3] = 30.0
    proto = handmade.model(text, w=WEIGHT, gamma=gamma)
    proto.graph.output.append(helper.make_tensor_value_info("w", 1, [64, 32]))
    source = handmade.write(proto, tmp_path / "in.onnx")
    report = rewrite(source, "calibrate,smooth", options=Options(tmp_path / "out.onnx", verify_each=True))
    (smoothing,) = (step for step in report.steps if step.text.startswith("smooth"))
    assert not smoothing.sites and "shared" in smoothing.declined[0].reason


def test_a_normalization_of_a_scalar_has_no_channels() -> None:
    model = ir.from_onnx_text(f"{HEAD} g (float x, float[4] w) => (float y) {{ y = LayerNormalization (x, w) }}")
    assert spread(model) == 0


def test_functions_that_import_other_versions_are_named() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 23, "box" : 8]> g (float[n] x) => (float[n] y)
        { y = box.negated (x) }
        <domain: "box", opset_import: ["" : 23, "box" : 1]> negated (a) => (b) { b = Neg (a) }"""
    )
    with pytest.raises(InputModelError, match="cannot be inlined"):
        LowerPortable()(model)


def test_padding_is_not_tried_on_sizes_beyond_memory() -> None:
    model = ir.from_onnx_text(
        f"""{HEAD} g (int64[n,s] attention_mask, float[n,s,8] x, float[{1 << 40},3] far, float[8,8] w)
        => (float[n,8] y, float[{1 << 40},3] z) {{
            a = MatMul (x, w)  z = Neg (far)  axes = Constant <value_ints = [1]> ()
            top = ReduceMax <keepdims = 0> (a, axes)  first = Shape <end = 1> (far)
            size = Cast <to = 1> (first)  y = Mul (top, size) }}"""
    )
    applied = RemovePadding().apply(model)
    assert not applied.sites and applied.declined


def test_an_equation_without_one_of_its_operands_stays(tmp_path: Path) -> None:
    """No runtime loads it, and ONNX takes any number of operands: it is no crash."""
    proto = handmade.model(f"{HEAD} g (float[n, 64] x) => (float[n, 32] y) {{ y = MatMul (x, w) }}", w=WEIGHT)
    proto.graph.node[0].CopyFrom(helper.make_node("Einsum", ["x", ""], ["y"], equation="nk,km->nm"))
    model = ir.from_proto(proto)
    (declined,) = FuseEinsum()(model).declined
    assert declined.reason == "an operand is missing" and model.graph[0].op_type == "Einsum"


def test_an_output_that_equals_a_value_of_no_declared_type_keeps_its_own() -> None:
    text = f"{HEAD} g (float[n, s, 64] x) => (float[n, s, 32] again) {{ y = MatMul (x, w)  again = MatMul (x, w) }}"
    model = ir.from_proto(handmade.model(text, w=WEIGHT))
    CleanUp()(model)
    (output,) = model.graph.outputs
    assert len(model.graph) == 1 and output.dtype == ir.DataType.FLOAT and str(output.shape) == "[n,s,32]"


def test_a_weight_whose_scale_is_empty_is_none_of_ours() -> None:
    """ONNX Runtime loads it."""
    text = f"""{HEAD} g (float[n, 64] x) => (float[n, 32] y) {{
        scales = DequantizeLinear <axis = 1> (multipliers, scale)
        w = DequantizeLinear <axis = 0, block_size = 32> (codes, scales)  y = MatMul (x, w) }}"""
    arrays = {"multipliers": np.ones((2, 32), np.int8), "codes": np.ones((64, 32), np.int8)}
    for size in (0, 32):
        proto = handmade.model(text, scale=np.ones(size, np.float32), **arrays)
        weight = ir.from_proto(proto).graph[2].inputs[1]
        assert (weights.read(weight) is None) is (size == 0)


def test_a_branch_that_only_turns_back_what_is_outside_of_it_gives_a_value_of_its_own(tmp_path: Path) -> None:
    text = f"""{HEAD} g (float[n,h,w,8] x, bool c) => (float[n,h,w,6] y) {{
        t = Transpose <perm = [0, 3, 1, 2]> (x)  z = Conv (t, w)
        y = If (c) <then_branch = a () => (float[n,h,w,6] p) {{ p = Transpose <perm = [0, 2, 3, 1]> (z) }},
                      else_branch = b () => (float[n,h,w,6] q) {{ q = Transpose <perm = [0, 2, 3, 1]> (z) }}> }}"""
    weight = np.random.default_rng(0).standard_normal((6, 8, 1, 1)).astype(np.float32)
    rewritten(tmp_path, text, "normalize,fuse-pointwise{minimum=8 wide=8}", w=weight)
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 3, 5, 8)).astype(np.float32), "c": np.array(True)}
    (before,), (after,) = (run(session(tmp_path / name), feeds) for name in ("in.onnx", "out.onnx"))
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_a_mask_of_five_axes_hides_no_rows_of_attention() -> None:
    model = ir.from_onnx_text(
        f"""{HEAD} g (float[n,s,16] q, float[n,s,8] k, float[n,1,s,s,1] mask) => (float[n,s,16] y) {{
        y = Attention <q_num_heads = 4, kv_num_heads = 2> (q, k, k, mask) }}"""
    )
    applied = SpellAttention()(model)
    assert isinstance(applied, Applied) and "two to four" in applied.declined[0].reason
