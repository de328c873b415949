"""Tables in parts of their own formats, and tied tables rounded for their products."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest

from bct_onnx.errors import TargetError, UsageError
from bct_onnx.graph.inventory import inventory
from bct_onnx.graph.save import embedded
from bct_onnx.quant import quantize
from bct_onnx.quant.formats import Formats
from bct_onnx.quant.solve import Solver
from bct_onnx.runtime.session import run, session
from bct_onnx.runtime.statistics import KEY, ChannelStatistics
from passes.clean_up import CleanUp
from passes.lower_weights import LowerWeights
from passes.normalize import Normalize
from passes.quantize_embeddings import QuantizeEmbeddings
from passes.quantize_weights import QuantizeWeights
from tests.passes.small import TIED, D, V, apply, close, lookup, model, normal, outputs

tied = pytest.mark.parametrize("spelling", TIED)

PARTS = {
    "two": ("4/32@0-100:table", "3/16@100-300:table"),
    "four": ("8@0-7:table", "4/16@7-100:table", "2/32@100-290:tab*", "3/32@290-300:t*"),
    "one": ("2/16@0-300:table",),
}
parts = pytest.mark.parametrize("formats", PARTS.values(), ids=PARTS)


def decoded_parts(one: QuantizeEmbeddings, table: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    found = Formats(one.formats, one.scheme).parts("table", len(table))
    return np.concatenate([quantize(table[rows].T, scheme).dequantize().T for rows, scheme in found])


@pytest.mark.parametrize("lowered", [False, True], ids=["portable", "lowered"])
@pytest.mark.parametrize("kind", ["int32", "int64"])
@parts
def test_parts_of_a_table(formats: tuple[str, ...], kind: str, lowered: bool) -> None:
    one, target = QuantizeEmbeddings(formats=formats), lookup(kind)
    applied = apply(one, target)
    assert not applied.declined and applied.sites[0].name == "table"
    if lowered:
        apply(LowerWeights(), target)
        apply(CleanUp(), target)
    ids = np.array([[0, 6, 7, 99, 100, 101], [289, 290, 299, -1, -200, -300]], kind)
    levels = outputs(target, ids=ids)
    close(levels["disabled"][0], decoded_parts(one, normal(V, D))[ids], 1e-6)
    np.testing.assert_array_equal(levels["all"][0], levels["disabled"][0])


@pytest.mark.parametrize("lowered", [False, True], ids=["portable", "lowered"])
def test_rows_beyond_a_table_in_parts_are_an_error(lowered: bool) -> None:
    target = lookup()
    apply(QuantizeEmbeddings(formats=PARTS["two"]), target)
    if lowered:
        apply(LowerWeights(), target)
    with pytest.raises(TargetError):
        run(session(embedded(target).SerializeToString()), {"ids": np.array([[300]])})


def test_a_single_id_of_a_table_in_parts() -> None:
    target = model("g (int64 ids) => (float[64] y) { y = Gather (table, ids) }", table=normal(V, D))
    one = QuantizeEmbeddings(formats=PARTS["four"])
    apply(one, target)
    for (got,) in outputs(target, ids=np.array(150)).values():
        close(got, decoded_parts(one, normal(V, D))[150], 1e-6)


@pytest.mark.parametrize("name", ["two", "four"])
@tied
def test_a_tie_is_kept_in_parts(spelling: str, name: str) -> None:
    text, arrays = TIED[spelling]
    target = model(text, **arrays)
    apply(Normalize(), target)
    one = QuantizeEmbeddings(formats=PARTS[name])
    (site,) = apply(one, target).sites
    apply(CleanUp(), target)
    assert "rows 0-" in site.note and "tied output layer" in site.note
    stored = sum(weight.nbytes for weight in inventory(target).weights if weight.kind != "index")
    assert f"{8 * stored / (V * D):.2f} bits per weight" in site.note
    table, ids = decoded_parts(one, normal(V, D)), np.array([3, 150])
    for level, values in outputs(target, ids=ids).items():
        close(values[0], table[ids] @ table.T, 1e-5 if level == "disabled" else 2e-2)
    apply(LowerWeights(), target)
    for (got,) in outputs(target, ids=ids).values():
        close(got, table[ids] @ table.T, 1e-5)


def test_ranges_that_do_not_fit_the_table() -> None:
    with pytest.raises(UsageError, match="each of its 300 rows once"):
        apply(QuantizeEmbeddings(formats=("4@0-100:table",)), lookup())
    with pytest.raises(UsageError, match="weights have no ranges"):
        QuantizeWeights(formats=("4@0-100:w",))


@tied
def test_a_tied_table_is_solved_for_its_products(spelling: str) -> None:
    text, arrays = TIED[spelling]
    rows = normal(512, D, seed=3) @ (normal(D, D, seed=4) / 8 + np.eye(D, dtype=np.float32))
    losses, notes = [], []
    for solver in get_args(Solver):
        target = model(text, **arrays)
        apply(Normalize(), target)
        looked_up = next(node.outputs[0] for node in target.graph if node.op_type == "Gather")
        statistics = ChannelStatistics.of(rows, products=True)
        looked_up.meta[KEY] = statistics
        (site,) = apply(QuantizeEmbeddings(bits=3, solver=solver), target).sites
        apply(CleanUp(), target)
        lookups = target.clone()
        lookups.graph.outputs[:] = [next(n.outputs[0] for n in lookups.graph if n.op_type == "GatherPlanes")]
        (table,) = outputs(lookups, ids=np.arange(V))["disabled"]
        error = normal(V, D) - table
        assert statistics.products is not None
        losses.append(float(np.einsum("nk,kl,nl->", error, statistics.products, error)))
        notes.append(site.note)
    assert losses[0] > 1.2 * losses[1] > 1.2 * 1.02 * losses[2] and len(set(notes)) == 1
