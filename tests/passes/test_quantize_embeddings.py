"""Embedding tables: rows come out as the block format says, and a tied output layer shares their codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bct_onnx.errors import UsageError
from bct_onnx.graph.save import embedded
from bct_onnx.quant import quantize
from bct_onnx.quant.formats import Formats
from bct_onnx.quant.scheme import BITS
from bct_onnx.rewriting import rewrite
from passes.clean_up import CleanUp
from passes.lower_weights import LowerWeights
from passes.normalize import Normalize
from passes.quantize_embeddings import QuantizeEmbeddings
from tests.passes.small import TIED, D, V, apply, close, lookup, model, normal, ops, outputs

tied = pytest.mark.parametrize("spelling", TIED)


def decoded(one: QuantizeEmbeddings, table: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return quantize(table.T, one.scheme).dequantize().T


@pytest.mark.parametrize("lowered", [False, True], ids=["portable", "lowered"])
@pytest.mark.parametrize("block", [16, 32, 24, 64, 100])
@pytest.mark.parametrize("bits", BITS)
def test_rows_are_the_block_format(bits: int, block: int, lowered: bool) -> None:
    one, target = QuantizeEmbeddings(bits=bits, block=block), lookup()
    apply(one, target)
    if lowered:
        apply(LowerWeights(), target)
    ids = np.array([[0, 299, 7], [7, 7, 1]])
    for (got,) in outputs(target, ids=ids).values():
        close(got, decoded(one, normal(V, D))[ids], 1e-6)


@pytest.mark.parametrize("length", [63, 50, 65], ids=str)
@pytest.mark.parametrize("bits", BITS)
def test_rows_that_blocks_and_bytes_do_not_divide(bits: int, length: int) -> None:
    one = QuantizeEmbeddings(bits=bits, block=16)
    for passes in ((one,), (one, LowerWeights())):
        target = model(
            f"g (int64[n] ids) => (float[n,{length}] y) {{ y = Gather (table, ids) }}", table=normal(V, length)
        )
        for each in passes:
            apply(each, target)
        for (got,) in outputs(target, ids=np.array([3, 0])).values():
            close(got, decoded(one, normal(V, length))[[3, 0]], 1e-6)


@pytest.mark.parametrize("lowered", [False, True], ids=["portable", "lowered"])
@pytest.mark.parametrize("kind", ["int32", "int64"])
@pytest.mark.parametrize(
    ("shape", "ids"),
    [("n", [1, -1, -300]), ("n,s", [[5, -2]]), ("a,b,c", [[[0, 1]], [[-3, 299]]])],
    ids=["1-D", "2-D", "3-D"],
)
def test_kinds_and_shapes_of_ids(kind: str, shape: str, ids: Any, lowered: bool) -> None:
    one, target = QuantizeEmbeddings(), lookup(kind, shape)
    apply(one, target)
    if lowered:
        apply(LowerWeights(), target)
    for (got,) in outputs(target, ids=np.array(ids, kind)).values():
        close(got, decoded(one, normal(V, D))[np.array(ids)], 1e-6)


@pytest.mark.parametrize("lowered", [False, True], ids=["portable", "lowered"])
def test_a_single_id(lowered: bool) -> None:
    target = model("g (int64 ids) => (float[64] y) { y = Gather (table, ids) }", table=normal(V, D))
    apply(QuantizeEmbeddings(), target)
    if lowered:
        apply(LowerWeights(), target)
    for (got,) in outputs(target, ids=np.array(5)).values():
        close(got, decoded(QuantizeEmbeddings(), normal(V, D))[5], 1e-6)


def test_half_precision() -> None:
    table = normal(V, D).astype(np.float16)
    target = model("g (int64[n] ids) => (float16[n,64] y) { y = Gather (table, ids) }", table=table)
    apply(QuantizeEmbeddings(), target)
    for (got,) in outputs(target, ids=np.array([3, 9])).values():
        close(got, decoded(QuantizeEmbeddings(), table)[[3, 9]].astype(np.float16), 1e-3)


def test_inside_a_branch() -> None:
    target = model(
        """g (int64[n] ids, bool c) => (float[n,64] y) { y = If (c) <
            then_branch = t () => (float[n,64] u) { u = Gather (table, ids) },
            else_branch = e () => (float[n,64] v) { h = Gather (table, ids)  v = Neg (h) }> }""",
        table=normal(V, D),
    )
    apply(QuantizeEmbeddings(), target)
    rows = decoded(QuantizeEmbeddings(), normal(V, D))[[3, 9]]
    for condition in (True, False):
        for (got,) in outputs(target, ids=np.array([3, 9]), c=np.array(condition)).values():
            close(got, rows if condition else -rows, 1e-6)


@tied
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_a_tie_is_kept(spelling: str, bits: int) -> None:
    text, arrays = TIED[spelling]
    target = model(text, **arrays)
    apply(Normalize(), target)
    one = QuantizeEmbeddings(bits=bits)
    applied = apply(one, target)
    apply(CleanUp(), target)
    assert len(applied.sites) == 1 and "tied output layer" in applied.sites[0].note
    table, ids = decoded(one, normal(V, D)), np.array([3, 9])
    for level, values in outputs(target, ids=ids).items():
        close(values[0], table[ids] @ table.T, 1e-5 if level == "disabled" else 2e-2)
    apply(LowerWeights(), target)
    for (got,) in outputs(target, ids=ids).values():
        close(got, table[ids] @ table.T, 1e-5)


@tied
@pytest.mark.parametrize("target", ["ort-cpu", "portable"])
@pytest.mark.parametrize("preset", ["w4a8", "w8a8", "w3a8", "w4"])
def test_a_tied_table_is_stored_once(spelling: str, target: str, preset: str) -> None:
    text, arrays = TIED[spelling]
    one = model(text, **arrays)
    report = rewrite(one, preset, target=target)
    assert report.parity is not None and report.parity.cosine > 0.97
    stored = embedded(one).graph.initializer
    codes = [
        tensor for tensor in stored if tensor.data_type in (2, 3, 21, 22) and int(np.prod(tensor.dims)) >= V * D // 4
    ]
    floats = [tensor.name for tensor in stored if tensor.data_type == 1 and int(np.prod(tensor.dims)) >= V * D]
    assert len(codes) == 1 and not floats


def test_two_lookups_share_the_codes() -> None:
    target = model(
        """g (int64[n] ids, int64[m] more) => (float[n,64] y, float[m,64] z) {
            y = Gather (table, ids)  z = Gather (table, more) }""",
        table=normal(V, D),
    )
    assert len(apply(QuantizeEmbeddings(), target).sites) == 1 and ops(target) == {"GatherBlocks": 2}
    assert len(embedded(target).graph.initializer) == 3


def test_one_decoded_row_at_a_time() -> None:
    """No operator of the main graph decodes the whole table."""
    target = lookup()
    apply(QuantizeEmbeddings(), target)
    assert list(ops(target)) == ["GatherBlocks"]
    apply(LowerWeights(), target)
    apply(CleanUp(), target)
    assert "GatherBlockQuantized" in ops(target) and "GatherBlocks" not in ops(target)


def test_two_bits_are_decoded_by_standard_operators_as_the_oldest_runtime_has_no_kernel_for_them() -> None:
    target = lookup()
    apply(QuantizeEmbeddings(bits=2), target)
    (declined,) = apply(LowerWeights(), target).declined
    assert "ONNX Runtime 1.23 has no 2-bit codes" in declined.reason and ops(target) == {"GatherBlocks": 1}


def test_formats_of_single_tables() -> None:
    tables = {"words": normal(V, D), "positions": normal(V, D, seed=1), "kinds": normal(V, D, seed=2)}
    text = "; ".join(f"{name} = Gather ({name}_table, ids)" for name in tables).replace(";", " ")
    target = model(
        f"g (int64[n] ids) => (float[n,64] words, float[n,64] positions, float[n,64] kinds) {{ {text} }}",
        **{f"{name}_table": table for name, table in tables.items()},
    )
    one = QuantizeEmbeddings(formats=("8:kinds*", "2/16:pos*", "3:elsewhere"))
    applied = apply(one, target)
    assert [left.name for left in applied.declined] == ["3:elsewhere"]
    ids, formats = np.array([0, 7]), Formats(one.formats, one.scheme)
    for name, got in zip(tables, outputs(target, ids=ids)["disabled"], strict=True):
        scheme = formats.of(f"{name}_table")
        assert scheme is not None
        close(got, quantize(tables[name].T, scheme).dequantize().T[ids], 1e-6)


def test_blocks_of_tables_have_one_side() -> None:
    with pytest.raises(UsageError, match="blocks of tables are rows"):
        QuantizeEmbeddings(formats=("4/32x32:a",))
