"""A model that is looked at piece by piece shows what it shows as a whole, and takes less memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.graph import tensors
from bct_onnx.quant.stored import Stored
from bct_onnx.runtime import segments
from bct_onnx.runtime.observer import Observer
from bct_onnx.runtime.segments import InSegments, Segment, cut
from tests.graph.handmade import peak_memory
from tests.passes.small import model, normal

TEXT = """g (float[n,8] x, bool[n,1] keep) => (float[n,8] y, float[n,8] z) {
    kept = Cast <to = 1> (keep)     mask = Mul (kept, x)
    a = MatMul (mask, w)    b = Relu (a)        c = Add (b, x)
    d = MatMul (c, w)       e = Relu (d)        f = Add (e, c)
    h = MatMul (f, w)       i = Mul (kept, h)
    j = MatMul (i, v)       y = Add (j, f)      z = MatMul (y, v)
}"""
ARRAYS = {"w": normal(8, 8), "v": normal(8, 8, seed=1)}
FIGURES: dict[str, Any] = {"products": {"c", "f", "i"}, "whole": {"e"}}
SEEN = ("mask", "c", "e", "f", "i", "y")


def pieces(target: ir.Model, most: int) -> tuple[list[ir.Value], list[Segment]]:
    values = [value for node in target.graph for value in node.outputs if value.name in SEEN]
    return values, cut(target, values, dict.fromkeys(SEEN, 1000), most)


@pytest.mark.parametrize(("most", "count"), [(1, 10), (1000, 3), (2500, 2), (1 << 30, 1)])
def test_the_same_as_of_the_whole(most: int, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "SPOOLED", 16)
    target = model(TEXT, **ARRAYS)
    values, parts = pieces(target, most)
    assert len(parts) == count and sum((part.observed for part in parts), ()) == tuple(values)
    batches = [{"x": normal(n, 8, seed=n), "keep": np.arange(n)[:, None] % 3 > 0} for n in (4, 9, 5)]
    whole = Observer(target, values, **FIGURES)
    for batch in batches:
        whole.see(batch)
    with tensors.Spool(tmp_path):
        found = InSegments(target, parts, **FIGURES)
        assert len(list(found.see(iter(batches)))) == 3 * count
        assert found.found.keys() == whole.found.keys()
        for name, statistics in whole.found.items():
            for figure in ("minimum", "maximum", "sum_squares", "rows", "products"):
                np.testing.assert_array_equal(getattr(found.found[name], figure), getattr(statistics, figure))
        moments = found.found["c"].moments
        assert moments is not None and isinstance(moments.upper, Stored), "it waits in the spool"


def test_what_goes_from_piece_to_piece() -> None:
    target = model(TEXT, **ARRAYS)
    _, parts = pieces(target, 1000)
    went = [([value.name for value in part.inputs], [value.name for value in part.outputs]) for part in parts]
    assert went == [([], ["mask", "kept"]), (["mask"], ["f"]), (["f", "kept"], ["y"])]
    part = parts[1].extract(target)
    assert [value.name for value in part.graph.inputs] == ["x", "mask"], "x is added"
    assert set(part.graph.initializers) == {"w"}
    assert [node.op_type for node in target.graph].count("MatMul") == 5, "the model is as it was"


def test_no_cut_where_sequences_pass() -> None:
    text = """g (float[n,8] x) => (float[n,8] y) {
        a = MatMul (x, w)   s = SequenceConstruct (a, x)    b = Relu (a)
        at = Constant <value_int = 0> ()    c = SequenceAt (s, at)  y = Add (b, c) }"""
    target = model(text, w=ARRAYS["w"])
    values = [value for node in target.graph for value in node.outputs if value.name in ("a", "b", "y")]
    assert [len(part.outputs) for part in cut(target, values, {}, 1)] == [1, 0]


CALIBRATED = """
import sys
from pathlib import Path
from bct_onnx.graph import load, tensors
from bct_onnx.runtime import segments, session
from passes.calibrate import Calibrate
from passes.normalize import Normalize
segments.MOST, session.THROUGH_FILE = 8 << 20, 1 << 20
model = load.load(sys.argv[1])
Normalize()(model)
# measured
with tensors.Spool(Path(sys.argv[1]).parent):
    Calibrate(samples=8, sequence=8, products=True)(model)
"""


@pytest.mark.whole
def test_memory_does_not_grow_with_what_is_measured(tmp_path: Path) -> None:
    from bct_onnx.graph.save import save
    from models.synthetic import transformer

    taken = []
    for layers in (4, 20):  # 5 MiB of XᵀX each, and 3 MiB of weights
        save(transformer(layers=layers, hidden=256, vocabulary=100), tmp_path / f"{layers}.onnx")
        before, after = peak_memory(CALIBRATED, tmp_path / f"{layers}.onnx")
        taken.append(after - before)
    assert segments.MOST > 8 << 20 and taken[1] - taken[0] < 16 * 5, taken  # all XᵀX and weights: 16 * 8
