"""Outputs that are noise in the source itself are told as such: no pass is blamed for them, none passes as exact."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx import registry
from bct_onnx.base import Applied, Pass, Site
from bct_onnx.errors import GateError
from bct_onnx.graph import tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.rewriting import Options, rewrite
from tests.graph import handmade

BY_ITS_OWN_SUM = """<ir_version: 10, opset_import: ["" : 23]>
    net (float[n, 64] x) => (float[n, 64] noise, float[n, 64] sound) {
        m = LayerNormalization (x, half)  s = ReduceSum (m, axes)  noise = Div (m, s)
        a = MatMul (x, w)  sound = Tanh (a) }"""


def _source(folder: Path) -> Path:
    w = (np.random.default_rng(0).standard_normal((64, 64)) / 8).astype(np.float32)
    half = np.full(64, 0.5, np.float32)
    return handmade.write(handmade.model(BY_ITS_OWN_SUM, w=w, half=half, axes=np.array([1])), folder / "in.onnx")


@dataclasses.dataclass(frozen=True)
class Elsewise(Pass):
    """Halves and doubles by an odd factor what both outputs come from, and loses a part of `sound` if it is told so."""

    name: ClassVar[str] = "elsewise"

    is_wrong: bool = False

    def apply(self, model: ir.Model) -> Applied:
        for op_type, factor in (("LayerNormalization", 3.3), ("MatMul", 3.0 if self.is_wrong else 3.3)):
            node = next(node for node in model.graph if node.op_type == op_type)
            value, users = node.outputs[0], list(node.outputs[0].uses())
            edit = Edit(node, after=True)
            times, by = (tensors.constant(model.graph, "by", np.array(each, np.float32)) for each in (3.3, factor))
            made = edit.op("Div", edit.op("Mul", value, times), by)
            for user, index in users:
                user.replace_input_with(index, made)
        return Applied(model, [Site("both")])


@pytest.mark.parametrize("verify", [False, True])
def test_an_exact_pass_is_not_blamed_for_noise(tmp_path: Path, verify: bool) -> None:
    report = rewrite(_source(tmp_path), [Elsewise()], options=Options(tmp_path / "out.onnx", verify_each=verify))
    assert report.parity is not None
    noise, sound = report.parity.outputs["noise"], report.parity.outputs["sound"]
    assert "not comparable" in noise.silent and not noise.exact and set(report.parity.telling) == {"sound"}
    assert not sound.silent and sound.sqnr_db > 100


def test_noise_hides_no_other_output(tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"^elsewise moved the outputs") as error:
        rewrite(_source(tmp_path), [Elsewise(is_wrong=True)], options=Options(tmp_path / "out.onnx"))
    assert "'sound' keeps" in error.value.why and "noise" not in error.value.why


def test_codes_of_few_bits_are_judged_by_what_is_no_noise(tmp_path: Path) -> None:
    passes = (Elsewise(), *registry.parse("quantize-weights"))
    report = rewrite(_source(tmp_path), passes, options=Options(tmp_path / "out.onnx"))
    assert report.parity is not None and set(report.parity.telling) == {"sound"}
    assert 15 < report.parity.sqnr_db < 60
