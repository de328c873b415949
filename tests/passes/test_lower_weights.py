"""The target level is the portable level, faster: the same integers, decoded once, at load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from bct_onnx.graph import load
from bct_onnx.graph.save import embedded
from bct_onnx.quant import quantize
from bct_onnx.runtime.feeds import random_feeds
from bct_onnx.runtime.parity import compare_outputs
from bct_onnx.runtime.session import run, session
from bct_onnx.runtime.vocabulary import vocabulary
from passes.clean_up import CleanUp
from passes.lower_weights import LowerWeights
from passes.quantize_activations import QuantizeActivations
from passes.quantize_embeddings import QuantizeEmbeddings
from passes.quantize_weights import QuantizeWeights
from tests.passes.small import LEVELS, apply, close, model, normal, ops, optimized, outputs

FORMATS = [
    QuantizeWeights(),
    QuantizeWeights(bits=8),
    QuantizeWeights(bits=3),
    QuantizeWeights(bits=2, block=16),
    QuantizeWeights(symmetric=False),
    QuantizeWeights(bits=2, symmetric=False),
    QuantizeWeights(block=(64, 64), scale="shift"),
    QuantizeWeights(bits=3, block=(16, 4)),
    QuantizeWeights(block=48),
    QuantizeWeights(bits=8, reduce_range=False),
]
formats = pytest.mark.parametrize("weights", FORMATS, ids=str)
DECODERS = {
    "Unpack",
    "UnpackPlanes",
    "BitShift",
    "DecodeInt8",
    "DecodeInt8Offset",
    "ExpandBlocks",
    "ExpandColumns",
    "BitwiseAnd",
}


def small(weights: QuantizeWeights, *more: Any) -> ir.Model:
    target = model("g (float[n,100] x) => (float[n,70] y) { y = MatMul (x, w) }", w=normal(100, 70))
    for one in (weights, *more):
        apply(one, target)
    return target


@formats
def test_both_levels_agree(weights: QuantizeWeights) -> None:
    x = normal(9, 100, seed=1, scale=4.0)
    want = outputs(small(weights, QuantizeActivations()), x=x)["disabled"][0]
    for level, got in outputs(small(weights, QuantizeActivations(), LowerWeights()), x=x).items():
        assert level in LEVELS
        close(got[0], want, 1e-5)


@formats
def test_float_activations(weights: QuantizeWeights) -> None:
    x = normal(9, 100, seed=1)
    weight = quantize(normal(100, 70), weights.scheme).dequantize()
    target = small(weights, LowerWeights())
    for (got,) in outputs(target, x=x).values():
        close(got, x @ weight, 1e-5)


@formats
@pytest.mark.parametrize("per", ["token", "tensor"])
def test_decoding_happens_once_at_load(weights: QuantizeWeights, per: Any, tmp_path: Path) -> None:
    target = small(weights, QuantizeActivations(per), LowerWeights(), CleanUp())
    loaded = optimized(target, tmp_path)
    names = [node.op_type for node in loaded.graph.node]
    assert not DECODERS & set(names) and all(
        node.domain != "ai.bct" or "Scale" in node.op_type for node in loaded.graph.node
    )
    (product,) = (
        node for node in loaded.graph.node if node.op_type in ("MatMulIntegerToFloat", "DynamicQuantizeMatMul")
    )
    (matrix,) = (one for one in loaded.graph.initializer if one.name == product.input[1])
    whole = numpy_helper.to_array(matrix)
    assert whole.dtype == (np.int8 if weights.reduce_range else np.uint8)
    shift = 0 if weights.reduce_range else 128
    np.testing.assert_array_equal(whole.astype(int) - shift, quantize(normal(100, 70), weights.scheme).int8())


def test_extremes_do_not_saturate() -> None:
    """All codes 255 and all weights 64: pairs of products stay below 2**15, on every CPU."""
    weights = QuantizeWeights(bits=8)
    target = model(
        "g (float[n,64] x) => (float[n,32] y) { h = Relu (x)  y = MatMul (h, w) }", w=np.ones((64, 32), np.float32)
    )
    for one in (weights, QuantizeActivations(), LowerWeights()):
        apply(one, target)
    assert (quantize(np.ones((64, 32), np.float32), weights.scheme).int8() == 64).all()
    x = np.full((5, 64), 255, np.float32)
    for (got,) in outputs(target, x=x).values():
        np.testing.assert_allclose(got, np.full((5, 32), 255 * 64), rtol=1e-3)
    for (got,) in outputs(target, x=-x).values():
        np.testing.assert_allclose(got, 0)


@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_products_are_exact_integers(sign: int) -> None:
    """The kernel itself, over long columns: 255 x (+-64) summed 4,096 times."""
    target = model(
        f"""g (uint8[n,4096] x) => (int32[n,16] y) <int8 v = {{{64 * sign}}}, int64[2] s = {{4096, 16}}> {{
            w = Expand (v, s)  y = MatMulInteger (x, w) }}"""
    )
    x = np.full((3, 4096), 255, np.uint8)
    for (got,) in outputs(target, x=x).values():
        assert (got == sign * 255 * 64 * 4096).all()


def test_a_shared_weight_is_decoded_once() -> None:
    target = model(
        "g (float[n,64] x, float[n,64] z) => (float[n,32] a, float[n,32] b) { a = MatMul (x, w) b = MatMul (z, w) }",
        w=normal(64, 32),
    )
    for one in (QuantizeWeights(), QuantizeActivations(), LowerWeights(), CleanUp()):
        apply(one, target)
    assert ops(target)["DecodeInt8"] == 1 and ops(target)["MatMulIntegerToFloat"] == 2
    assert (
        len([tensor for tensor in embedded(target).graph.initializer if tensor.data_type == onnx.TensorProto.INT4]) <= 2
    )


@pytest.mark.parametrize("preset", ["bct-plus", "bct", "fast", "w4a8", "w8a8", "w3a8", "shift4", "w4"])
def test_a_whole_model_agrees(preset: str, bundled_model: Path, rewritten: Callable[..., ir.Model]) -> None:
    """Lowered and portable differ by far less than either does from float."""
    original, portable, lowered = load.load(bundled_model), rewritten(preset, "portable"), rewritten(preset)
    feeds = [
        random_feeds(original, batch=3, sequence=24, seed=seed, vocab=vocabulary(original), padding=True)
        for seed in range(4)
    ]

    def results(target: ir.Model, level: Any) -> list[list[np.ndarray[Any, Any]]]:
        runner = session(target, optimize=level)
        return [run(runner, one) for one in feeds]

    reference = results(portable, "disabled")
    loss = compare_outputs(results(original, "all"), reference).sqnr_db
    for level in LEVELS:
        assert compare_outputs(reference, results(lowered, level)).sqnr_db > loss + 3


@pytest.mark.parametrize("preset", ["bct-plus", "w4a8"])
def test_nothing_decodes_in_the_bundled_model(preset: str, rewritten: Callable[..., ir.Model], tmp_path: Path) -> None:
    loaded = optimized(rewritten(preset), tmp_path)
    assert not {*DECODERS, "Round"} & {node.op_type for node in loaded.graph.node}
    matrices = {node.input[1] for node in loaded.graph.node if node.op_type == "MatMulIntegerToFloat"}
    types = {one.data_type for one in loaded.graph.initializer if one.name in matrices}
    assert len(matrices) == 19 and types == {onnx.TensorProto.INT8}


@pytest.mark.parametrize("columns", [64, 96], ids=["whole bytes of multipliers", "an odd number of them"])
@pytest.mark.parametrize("tied", [False, True])
def test_multipliers_of_a_table_need_no_function_unless_it_is_tied(columns: int, tied: bool) -> None:
    product = "w = Transpose <perm = [1, 0]> (table)  y = MatMul (x, w)" if tied else "y = Identity (x)"
    width = 50 if tied else columns
    text = f"g (int64[n] ids) => (float[n,{width}] y) {{ x = Gather (table, ids)  {product} }}"
    portable, lowered = (model(text, table=normal(50, columns, scale=2.0)) for _ in range(2))
    for target, more in ((portable, []), (lowered, [LowerWeights(), CleanUp()])):
        for one in (QuantizeEmbeddings(), *more):
            apply(one, target)
    assert ops(lowered)["GatherBlockQuantized"] == 1
    assert any(function.name == "Unpack" for function in lowered.functions.values()) == tied
    ids = {"ids": np.array([0, 7, 49, 7])}
    close(run(session(lowered), ids)[0], run(session(portable), ids)[0], 1e-6)
