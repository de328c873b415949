"""Tables whose rows have widths of their own, through the pass, the runtime and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bct_onnx.errors import TargetError, UsageError
from bct_onnx.forms import mixed_table
from bct_onnx.graph import runtimes
from bct_onnx.graph.inventory import inventory
from bct_onnx.graph.save import embedded
from bct_onnx.quant import mixed
from bct_onnx.runtime.session import run, session
from passes.lower_qdq import LowerQdq
from passes.lower_quantize import LowerQuantize
from passes.lower_weights import LowerWeights
from passes.quantize_embeddings import QuantizeEmbeddings
from passes.quantize_weights import QuantizeWeights
from tests.passes.small import TIED, D, V, apply, close, lookup, model, normal, ops, outputs

WIDTHS = {
    "all": np.array([1, 2, 3, 4, 6, 8] * 50, np.uint8),
    "one": np.full(300, 1, np.uint8),
    "four": np.full(300, 4, np.uint8),
    "eight": np.full(300, 8, np.uint8),
    "three and six": np.array([3, 6] * 150, np.uint8),
}
widths_of = pytest.mark.parametrize("widths", WIDTHS.values(), ids=WIDTHS)


def by_use(widths: np.ndarray[Any, Any]) -> QuantizeEmbeddings:
    return QuantizeEmbeddings(formats=(f"@{mixed.print_widths(widths)}:table",))


def decoded(table: np.ndarray[Any, Any], widths: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    stored = mixed.quantize(table, widths, by_use(widths).scheme)
    levels, steps = mixed.levels(stored, table.shape[1])
    return levels * steps[:, None]


@pytest.mark.parametrize("lower", [None, LowerWeights()], ids=["portable", "lowered"])
@pytest.mark.parametrize("kind", ["int32", "int64"])
@widths_of
def test_rows_in_their_widths(widths: np.ndarray[Any, Any], kind: str, lower: LowerWeights | None) -> None:
    target = lookup(kind)
    (site,) = apply(by_use(widths), target).sites
    assert ops(target) == {"GatherMixed": 1} and "rows by use" in site.note
    if lower is not None:
        apply(lower, target)
    ids = np.array([[0, 6, 7, 99, 100, 101], [289, 290, 299, -1, -200, -300]], kind)
    for (got,) in outputs(target, ids=ids).values():
        close(got, decoded(normal(V, D), widths)[ids], 1e-6)


@widths_of
def test_what_is_stored_is_read_back_and_counted(widths: np.ndarray[Any, Any]) -> None:
    target = lookup()
    apply(by_use(widths), target)
    table = mixed_table.read(target.graph[0])
    assert table is not None and table.name == "table"
    close(table.blocks().dequantize().T, decoded(normal(V, D), widths), 1e-6)
    stored = sum(weight.nbytes for weight in inventory(target).weights if weight.kind != "index")
    few = {bits: kinds for bits, kinds in mixed.SLICES.items() if bits < 8}
    empty = sum(D * bits // 8 for bits, kinds in few.items() if not set(kinds) & set(widths.tolist()))
    assert stored == mixed.nbytes(widths, D) + empty


@pytest.mark.parametrize("weights", ["auto", "column"])
def test_targets_of_quantize_linear_pairs_get_int8_rows(weights: Any) -> None:
    widths, target = WIDTHS["all"], lookup()
    apply(by_use(widths), target)
    apply(LowerQdq(weights=weights), target)
    apply(LowerQuantize(form="standard"), target)
    assert target.opset_imports[""] == 22  # ONNX Runtime moves the decoding, and 1.23 quantizes in no later opset
    lowest = runtimes.lowest(target)
    assert lowest is not None and lowest.version < "1.23"
    assert "GatherMixed" not in ops(target)
    ids, bound = np.array([[0, 7, 299]]), {"auto": 1e-6, "column": 2e-2}[weights]
    for (got,) in outputs(target, ids=ids).values():
        close(got, decoded(normal(V, D), widths)[ids], bound)


def test_half_precision_and_a_single_id() -> None:
    widths = WIDTHS["all"]
    target = model(
        "g (int64 ids) => (float16[64] y) { y = Gather (table, ids) }", table=normal(V, D).astype(np.float16)
    )
    apply(by_use(widths), target)
    rows = decoded(normal(V, D).astype(np.float16), widths)
    for (got,) in outputs(target, ids=np.array(150)).values():
        close(got, rows[150].astype(np.float16), 1e-3)


def test_rows_beyond_the_table_are_an_error() -> None:
    target = lookup()
    apply(by_use(WIDTHS["all"]), target)
    with pytest.raises(TargetError):
        run(session(embedded(target).SerializeToString()), {"ids": np.array([[300]])})


def test_what_has_no_widths_of_rows() -> None:
    text, arrays = next(iter(TIED.values()))
    (tied,) = apply(by_use(WIDTHS["all"]), model(text, **arrays)).declined[:1]
    assert "output layer multiplies by all of its rows" in tied.reason
    odd = model("g (int64[n] ids) => (float[n,63] y) { y = Gather (table, ids) }", table=normal(V, 63))
    (declined,) = apply(by_use(WIDTHS["all"]), odd).declined
    assert "multiple of 8" in declined.reason
    with pytest.raises(UsageError, match="for 20 rows, and it has 300"):
        apply(QuantizeEmbeddings(formats=("@1(20):table",)), lookup())
    with pytest.raises(UsageError, match="weights have no ranges"):
        QuantizeWeights(formats=("@1(20):w",))
