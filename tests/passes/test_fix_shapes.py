"""Sizes for some dimensions or all: what the result accepts is what it is checked on, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from bct_onnx.registry import complete
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.session import session
from tests.graph import handmade
from tests.interface import differences

TEXT = """<ir_version: 10, opset_import: ["" : 23]>
    g (float[n, s, 8] x, int64[n, s] attention_mask) => (float[n, s, 8] y) {
        f = Cast <to = 1> (attention_mask)  last = Constant <value_ints = [-1]> ()
        m = Unsqueeze (f, last)  z = Mul (x, m)  y = Neg (z)
    }"""


@pytest.mark.parametrize(
    ("dims", "timed"),
    [("n=2", (2, 8)), ("s=4", (1, 8)), ("n=1", (1, 8)), ("s=24", (1, 8)), ("n=2|s=24", (2, 8)), ("n=3|s=200", (3, 8))],
)
@pytest.mark.parametrize("verify", [False, True])
def test_the_result_is_checked_on_the_sizes_it_has(
    tmp_path: Path, dims: str, timed: tuple[int, int], verify: bool
) -> None:
    """Some of these are the sizes of one of the samples by chance: the others have to fit too."""
    source = handmade.write(handmade.model(TEXT), tmp_path / "in.onnx")
    passes = f"fix-shapes{{dims={dims}}}"
    options = Options(tmp_path / "out.onnx", verify_each=verify)
    report = rewrite(source, passes, target="portable", options=options)
    assert report.parity is not None and report.parity.finite
    assert [(each.batch, each.sequence) for each in report.timings] == [timed]
    sizes = dict(entry.split("=") for entry in dims.split("|"))
    declared = session(tmp_path / "out.onnx").get_inputs()[0].shape
    assert declared == [int(sizes[name]) if name in sizes else name for name in ("n", "s")] + [8]


def test_the_interface_changes_as_the_pass_says_and_no_further(tmp_path: Path) -> None:
    source = handmade.write(handmade.model(TEXT), tmp_path / "in.onnx")
    steps = complete("fix-shapes{dims=n=2}", "portable")
    rewrite(source, "fix-shapes{dims=n=2}", target="portable", options=Options(tmp_path / "out.onnx"))
    before, after = onnx.load(source), onnx.load(tmp_path / "out.onnx")
    assert differences(before, after, steps) == []
    assert differences(before, after) != []
    assert differences(before, before, steps) != []
    assert differences(before, after, complete("fix-shapes{dims=n=3}", "portable")) != []
