"""A pass of a user's own runs like the others, and is found out where it does not keep what it promises."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir
import pytest

from bct_onnx.base import Applied, Pass, Site
from bct_onnx.errors import GateError
from bct_onnx.graph import load, provenance
from bct_onnx.rewriting import Options, rewrite


@dataclasses.dataclass(frozen=True)
class Negate(Pass):
    """A pass of a user's own: x @ w becomes x @ -w, which is wrong and said to be exact."""

    name: ClassVar[str] = "negate"

    def apply(self, model: ir.Model) -> Applied:
        (node,) = (node for node in model.graph if node.op_type == "MatMul")
        made = ir.node("Neg", [node.outputs[0]])
        model.graph.insert_after(node, made)
        node.outputs[0].replace_all_uses_with(made.outputs[0], replace_graph_outputs=True)
        made.replace_input_with(0, node.outputs[0])
        node.outputs[0].name, made.outputs[0].name = "product", "y"
        made.outputs[0].type, made.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
        return Applied(model, [Site("y")])


@dataclasses.dataclass(frozen=True)
class Approximate(Negate):
    """The same, with a promise that it keeps."""

    name: ClassVar[str] = "approximate"
    promise: ClassVar[str] = "bounded"


def test_a_pass_of_ones_own(source: Path, out: Path) -> None:
    report = rewrite(source, (Approximate(),), target="portable", options=Options(out, accept=True))
    assert report.pipeline.startswith("approximate,") and report.parity is not None and report.parity.cosine < -0.99
    made = [node for node in load.load(out).graph if node.op_type == "Neg"]
    assert made[0].metadata_props[provenance.PASS] == "approximate"


@pytest.mark.parametrize("verify", [False, True])
def test_a_broken_promise_is_found(verify: bool, source: Path, out: Path) -> None:
    with pytest.raises(GateError, match="negate moved the outputs") as error:
        rewrite(source, (Negate(),), options=Options(out, verify_each=verify))
    assert "promises to be exact" in error.value.why and "a fault of bct-onnx" in error.value.fix
    assert list(out.parent.iterdir()) == []


def test_snapshots_survive_an_error(source: Path, out: Path) -> None:
    """They are what shows where it went wrong."""
    kept = out.parent / "kept"
    with pytest.raises(GateError):
        rewrite(source, (Negate(),), options=Options(out, verify_each=True, keep_passes=kept))
    assert [file.name for file in sorted(kept.glob("*.onnx"))] == ["00-input.onnx", "01-negate.onnx"]
