"""Rotary embeddings that were exported for one text, rewritten for any number of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.errors import TargetError
from bct_onnx.graph.rotary import for_every_text
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.session import run, session
from passes.normalize import Normalize
from tests.graph import handmade

HEAD = '<ir_version: 10, opset_import: ["" : 23]>'
TEXT = f"""{HEAD} g (float[batch, 2, length, 8] x, float[batch, 2, length, 8] z, float[angles, 4] cosines)
    => (float[batch, 2, length, 8] y, float[batch, 2, length, 8] v) {{
        axis = Constant <value_ints = [0]> ()  two = Constant <value_ints = [2]> ()
        three = Constant <value_ints = [3]> ()
        length = Shape <start = 2, end = 3> (x)
        some = Slice (cosines, axis, length, axis)  one_row = Unsqueeze (some, axis)
        sines = Sin (one_row)
        y = RotaryEmbedding (x, one_row, sines)  v = RotaryEmbedding (z, one_row, sines) }}"""


def feeds(texts: int) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    rng = np.random.default_rng(3)
    made = {name: rng.standard_normal((4, 2, 5, 8)).astype(np.float32)[:texts] for name in ("x", "z")}
    return {**made, "cosines": rng.standard_normal((9, 4)).astype(np.float32)}


def test_each_text_is_rotated_as_it_is_alone() -> None:
    before, model = session(ir.from_proto(handmade.model(TEXT))), ir.from_proto(handmade.model(TEXT))
    with pytest.raises(TargetError, match="RotaryEmbedding"):
        run(before, feeds(4))
    applied = Normalize().call(model)
    assert any("for every text" in site.note for site in applied.sites)
    assert [node.op_type for node in model.graph].count("Expand") == 2  # shared by all that has the same batch
    after, whole = session(model), feeds(4)
    results = run(after, whole)
    for text in range(4):
        alone = {name: array[text : text + 1] if name != "cosines" else array for name, array in whole.items()}
        for got, want, own in zip(results, run(before, alone), run(after, alone), strict=True):
            np.testing.assert_array_equal(got[text], want[0])
            np.testing.assert_array_equal(own, want)


@pytest.mark.parametrize(
    "change",
    [
        ("float[batch, 2, length, 8]", "float[1, 2, length, 8]"),
        (
            "one_row = Unsqueeze (some, axis)",
            "row = Unsqueeze (some, axis)  b = Shape <start = 0, end = 1> (x)"
            "  one = Constant <value_ints = [1, 1]> ()  n = Concat <axis = 0> (b, one)  one_row = Expand (row, n)",
        ),
    ],
    ids=["one text", "all texts"],
)
def test_what_runs_is_left_alone(change: tuple[str, str]) -> None:
    model = ir.from_proto(handmade.model(TEXT.replace(*change)))
    assert not any("for every text" in site.note for site in Normalize().call(model).sites)


def test_such_a_model_is_compared_with_one_text_at_a_time(tmp_path: Path) -> None:
    text = TEXT.replace("=> (", "=> (float[batch, 2, length, 64] p, ").replace("y = Rot", "p = MatMul (x, w)  y = Rot")
    weight = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    handmade.write(handmade.model(text, w=weight), tmp_path / "in.onnx")
    report = rewrite(tmp_path / "in.onnx", "lift", options=Options(tmp_path / "out.onnx"))
    assert report.parity is not None and report.parity.sqnr_db > 100
    assert "of one text" in report.parity.source


def test_what_is_declared_a_scalar_has_no_texts() -> None:
    model = ir.from_proto(handmade.model(TEXT))
    model.graph.inputs[0].shape = ir.Shape([])
    assert for_every_text(model) == 0
