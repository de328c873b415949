"""Stamps of passes and types of inner values are written where they are a small share of a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bct_onnx.graph import provenance
from bct_onnx.graph.save import predicted_size, save

TEXT = """<ir_version: 10, opset_import: ["": 23, "com.microsoft": 1, "ai.bct": 1]>
    g (float[n, 8] x, bool c) => (float[n, 8] y) <float[8] w = {1, 2, 3, 4, 5, 6, 7, 8}> {
        [a] h = Mul (x, w)
        [b] g = com.microsoft.FastGelu (h)
        [c] y = If (c) <then_branch = t () => (float[n, 8] u) { [d] k = Exp (g) [e] u = Neg (k) },
                        else_branch = e () => (float[n, 8] v) { [f] v = Abs (h) }> }"""


def noted(values: int) -> ir.Model:
    """A model of five stamped nodes, one with a note of its own, inner values with types and so many weights."""
    model = ir.from_onnx_text(TEXT)
    for node in model.graph.all_nodes():
        node.metadata_props[provenance.PASS] = "fuse-something"
        for value in node.outputs:
            value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["n", 8])
    model.graph[0].metadata_props["made by"] = "hand"
    value = model.graph.initializers["w"]
    if values > 8:
        big = ir.tensor(np.ones((values // 8, 8), np.float32), name="big")
        model.graph.initializers["big"] = ir.Value(
            name="big", const_value=big, type=value.type, shape=ir.Shape([values // 8, 8])
        )
        model.graph[0].replace_input_with(1, model.graph.initializers["big"])
    return model


def written(model: ir.Model, path: Path, share: float) -> onnx.ModelProto:
    save(model, path, notes=share)
    return onnx.load(path)


def stamps(graph: onnx.GraphProto) -> list[str]:
    found = [entry.key for node in graph.node for entry in node.metadata_props]
    for node in graph.node:
        for attribute in node.attribute:
            found += stamps(attribute.g)
    return found


def test_notes_that_take_too_much_are_left_out(tmp_path: Path) -> None:
    proto = written(noted(8), tmp_path / "m.onnx", 0.05)
    assert stamps(proto.graph) == ["made by"]  # what the model came with stays
    assert [info.name for info in proto.graph.value_info] == ["g"]  # not every runtime infers it


@pytest.mark.parametrize(("values", "share"), [(8, 1), (80_000, 0.05)])
def test_else_all_stay(values: int, share: float, tmp_path: Path) -> None:
    proto = written(noted(values), tmp_path / "m.onnx", share)
    assert stamps(proto.graph).count(provenance.PASS) == 6
    assert {info.name for info in proto.graph.value_info} == {"h", "g"}


def test_the_model_in_memory_keeps_them_and_the_size_is_foretold(tmp_path: Path) -> None:
    model, sizes = noted(8), []
    for share in (1, 0.05):
        save(model, tmp_path / f"{share}.onnx", notes=share)
        sizes.append((tmp_path / f"{share}.onnx").stat().st_size)
        assert abs(predicted_size(model, share) - sizes[-1]) <= 32
    assert sizes[1] < sizes[0] - 200
    assert all(provenance.PASS in node.metadata_props for node in model.graph.all_nodes())
