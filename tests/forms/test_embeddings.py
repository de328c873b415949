"""An embedding table knows its lookups, the layers tied to it, and what else stands in the way."""

from __future__ import annotations

import numpy as np
import pytest

from bct_onnx.forms.embeddings import Embedding, embeddings
from bct_onnx.graph.tensors import Array
from tests.passes.small import TIED, lookup, model, normal

TIES = {name: TIED[name] for name in ("transpose", "gemm")}


@pytest.mark.parametrize(("text", "arrays"), TIES.values(), ids=TIES)
def test_a_tied_output_layer_is_a_layer_of_the_table(text: str, arrays: dict[str, Array]) -> None:
    target = model(text, **arrays)
    (table,) = embeddings(target)
    assert table.name == "table" and not table.others and not table.statistics
    assert [node.op_type for node in table.lookups] == ["Gather"]
    (layer,) = table.layers
    assert layer.node is target.graph[-1] and layer.shape == (64, 300)
    np.testing.assert_array_equal(layer.matrix(), normal(300, 64).T)
    assert table.operators[-1] == "Gather" and len(table.operators) == 2


def test_a_table_alone_has_no_layers() -> None:
    (table,) = embeddings(lookup())
    assert table.operators == ("Gather",) and table.layers == () and table.others == ()


OTHERS = {
    "another operator": ("b = Relu (t)", "Relu"),
    "a product that is not its transpose": ("b = MatMul (t, t)", "MatMul"),
    "a transpose that others read too": ("w = Transpose (t)  c = MatMul (a, w)  b = Relu (w)", "Transpose"),
    "columns that are looked up": ("b = Gather <axis = 1> (t, ids)", "Gather"),
}


@pytest.mark.parametrize(("text", "other"), OTHERS.values(), ids=OTHERS)
def test_what_else_reads_a_table_is_told(text: str, other: str) -> None:
    target = model(f"g (int64[n] ids) => (float[n,8] a) {{ a = Gather (t, ids)  {text} }}", t=normal(8, 8))
    (table,) = embeddings(target)
    assert table.others == (other,) and not table.layers


def test_a_constant_that_nobody_looks_up_is_no_table() -> None:
    target = model("g (int64[n] ids) => (int64[n] y) { y = Gather (t, ids) }", t=np.arange(4))
    assert Embedding.of(target.graph.initializers["t"]) is None
    assert list(embeddings(model("g (float[n,4] x) => (float[n,4] y) { y = MatMul (x, w) }", w=normal(4, 4)))) == []
