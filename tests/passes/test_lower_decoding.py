"""Single rows by MatMulNBits: the stored weight exactly, any number of rows alike, the same bytes again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bct_onnx.base import Pass
from bct_onnx.errors import UsageError
from bct_onnx.quant import quantize
from bct_onnx.runtime.kernel_costs import load
from bct_onnx.runtime.session import run, session
from passes.clean_up import CleanUp
from passes.lower_decoding import LowerDecoding
from passes.lower_weights import LowerWeights
from passes.quantize_activations import QuantizeActivations
from passes.quantize_embeddings import QuantizeEmbeddings
from passes.quantize_weights import QuantizeWeights
from tests.passes.small import LEVELS, apply, close, model, normal, ops, optimized

K, N = 600, 1024  # the last block of a column is not full
FOUR_BITS = QuantizeWeights()
DECODER = """g (int64[batch_size, sequence_length] input_ids, float[batch_size, 1, past_sequence_length, 4] past_key)
    => (float[batch_size, sequence_length, 1024] y, float[batch_size, sequence_length, 1024] z,
        float[batch_size, 1, past_sequence_length, 4] present_key) {
    x = Gather (table, input_ids)  p = MatMul (x, w)  y = Add (p, b)  z = MatMul (x, v)
    present_key = Identity (past_key) }"""


def decoder(*passes: Pass, weights: Pass = FOUR_BITS) -> ir.Model:
    """Two products of the same rows, one with a bias, and a cache."""
    arrays = {"table": normal(50, K, scale=3.0), "w": normal(K, N, seed=1), "v": normal(K, N, seed=2)}
    made = model(DECODER, **arrays, b=normal(N, seed=3))
    for one in (weights, *passes):
        apply(one, made)
    return made


def feeds(batch: int, tokens: int) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    ids = (np.arange(batch * tokens, dtype=np.int64) * 7 % 50).reshape(batch, tokens)
    return {"input_ids": ids, "past_key": np.zeros((batch, 1, 0, 4), np.float32)}


@pytest.mark.parametrize(
    "weights",
    [
        FOUR_BITS,
        QuantizeWeights(bits=3),
        QuantizeWeights(bits=2, block=16),
        QuantizeWeights(scale="shift", block=(64, 64)),
        QuantizeWeights(block=256),
    ],
    ids=str,
)
def test_the_stored_weight_is_multiplied(weights: QuantizeWeights) -> None:
    """Without an error of its own: only activations are rounded, to 8 bits per block of a row."""
    target = decoder(LowerDecoding(), weights=weights)
    assert ops(target)["MatMulNBits"] == 2
    stored = [quantize(normal(K, N, seed=seed), weights.scheme).dequantize() for seed in (1, 2)]
    x = normal(50, K, scale=3.0)[feeds(5, 1)["input_ids"][:, 0]]
    block = weights.scheme.block_shape[0]
    padded = np.pad(x, ((0, 0), (0, -K % block))).reshape(len(x), -1, block)
    step = np.abs(padded).max(-1, keepdims=True) / 127
    rounded = (np.rint(padded / step) * step).reshape(len(x), -1)[:, :K]
    y, z, _ = run(session(target), feeds(5, 1))
    close(y[:, 0], rounded @ stored[0] + normal(N, seed=3), 1e-5)
    close(z[:, 0], rounded @ stored[1], 1e-5)


def test_prompts_are_as_without_the_pass() -> None:
    with_pass = decoder(QuantizeActivations(), LowerDecoding(), LowerWeights(), CleanUp())
    without = decoder(QuantizeActivations(), LowerWeights(), CleanUp())
    assert ops(with_pass)["MatMulNBits"] == 2 and ops(with_pass)["If"] == 1 and "MatMulNBits" not in ops(without)
    for level in LEVELS:
        for got, want in zip(
            *(run(session(one, optimize=level), feeds(3, 4)) for one in (with_pass, without)), strict=True
        ):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    "passes", [(), (QuantizeActivations(), LowerDecoding(), LowerWeights())], ids=["alone", "w4a8"]
)
def test_a_token_has_the_same_result_in_every_batch(passes: tuple[Pass, ...]) -> None:
    """The kernel for one row adds in another order; the row of zeros keeps it away."""
    runner = session(decoder(*passes) if passes else decoder(LowerDecoding()))
    whole = feeds(9, 1)
    y, z, _ = run(runner, whole)
    for rows in (1, 2, 3, 8):
        for start in range(0, 9 - rows, 4):
            part = {name: array[start : start + rows] for name, array in whole.items()}
            got = run(runner, part)
            np.testing.assert_array_equal(got[0], y[start : start + rows])
            np.testing.assert_array_equal(got[1], z[start : start + rows])


def test_decoding_happens_once_at_load(tmp_path: Path) -> None:
    loaded = optimized(decoder(QuantizeActivations(), LowerDecoding(), LowerWeights(), CleanUp()), tmp_path)
    assert {node.op_type for node in loaded.graph.node} <= {"Equal", "Gather", "Identity", "If", "Shape", "Squeeze"}
    (choice,) = (node for node in loaded.graph.node if node.op_type == "If")
    branches = {one.name: [node.op_type for node in one.g.node] for one in choice.attribute}
    assert sorted(branches["then_branch"]) == ["MatMulNBits", "MatMulNBits", "Pad", "Slice", "Slice"]
    assert branches["else_branch"].count("MatMulIntegerToFloat") == 2
    assert "BitShift" not in branches["else_branch"]


def test_one_copy_of_the_codes_is_stored() -> None:
    lowered = decoder(QuantizeActivations(), LowerDecoding(), LowerWeights(), CleanUp())
    before = decoder(QuantizeActivations(), LowerWeights(), CleanUp())
    sizes = [len(ir.to_proto(one).SerializeToString()) for one in (lowered, before)]
    assert sizes[0] < sizes[1] * 1.05  # blocks are filled up to 608 rows


def test_a_tied_table_serves_the_output_layer() -> None:
    text = """g (int64[b, s] input_ids, float[b, 1, past, 4] past_key)
        => (float[b, s, 900] y, float[b, 1, past, 4] present_key) {
        x = Gather (table, input_ids)  w = Transpose <perm = [1, 0]> (table)  y = MatMul (x, w)
        present_key = Identity (past_key) }"""
    made = model(text, table=normal(900, 640))
    for one in (QuantizeEmbeddings(), QuantizeActivations(), LowerDecoding(), LowerWeights(), CleanUp()):
        apply(one, made)
    assert ops(made)["MatMulNBits"] == 1 and ops(made)["GatherBlockQuantized"] == 1
    single, pair = (run(session(made), feeds(2, tokens))[0] for tokens in (1, 2))
    want = pair[0, 0]
    noise = np.square(single[0, 0] - want).sum() / np.square(want).sum()
    assert noise < 10**-3.5  # both quantize the row, each in its own way


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (QuantizeWeights(bits=8), "8 bits"),
        (QuantizeWeights(symmetric=False), "zero points"),
        (QuantizeWeights(block=48), "not 48"),
        (QuantizeWeights(block=8), "not 8"),
    ],
    ids=str,
)
def test_what_the_kernel_does_not_take(weights: QuantizeWeights, reason: str) -> None:
    made = model("g (float[n,600] x) => (float[n,1024] y) { y = MatMul (x, w) }", w=normal(K, N))
    apply(weights, made)
    (declined,) = apply(LowerDecoding(rows=1), made).declined
    assert reason in declined.reason


def test_models_without_a_cache_are_left_alone() -> None:
    made = model("g (int64[b,s] input_ids, float[n,600] x) => (float[n,1024] y) { y = MatMul (x, w) }", w=normal(K, N))
    apply(QuantizeWeights(), made)
    applied = apply(LowerDecoding(), made)
    assert not applied.sites and not applied.declined and not applied.modified


def test_a_table_of_costs_decides_and_is_named(tmp_path: Path) -> None:
    file = tmp_path / "slow.json"
    text = load("avx2").to_json().replace('"branch_ns": 6500.0', '"branch_ns": 1e9').replace('"avx2"', '"slow"')
    file.write_text(text, encoding="utf-8")
    one = LowerDecoding(costs=str(file))
    assert one.stamp_text() == "lower-decoding{rows=0 costs=slow.json gain=1.25}" and one.reads() == {"costs": file}
    applied = apply(one, decoder())
    assert not applied.sites and all("gains too little" in reason.reason for reason in applied.declined)
    assert "by costs of slow" in applied.declined[0].reason


def test_the_same_bytes_again() -> None:
    first, again = (ir.to_proto(decoder(QuantizeActivations(), LowerDecoding())) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)
    onnx.checker.check_model(first, full_check=True)


def test_usage() -> None:
    with pytest.raises(UsageError, match="rows=-1"):
        LowerDecoding(rows=-1)
    with pytest.raises(UsageError, match="no table of costs 'fpga'"):
        LowerDecoding(costs="fpga")(decoder())
