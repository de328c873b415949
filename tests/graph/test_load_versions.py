"""Operator sets and format versions: which ones `load` takes, and how it evens out two spellings of the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from bct_onnx.errors import InputModelError
from bct_onnx.graph.load import load
from tests.graph.handmade import MATMUL, model, write

Refusal = Callable[[Path | str], InputModelError]
Damage = Callable[[onnx.ModelProto], object]


def set_imports(*versions: tuple[str, int]) -> Damage:
    def damage(proto: onnx.ModelProto) -> None:
        del proto.opset_import[:]
        proto.opset_import.extend(helper.make_opsetid(*version) for version in versions)

    return damage


def set_ir_version(version: int) -> Damage:
    return lambda proto: setattr(proto, "ir_version", version)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (set_imports(), "does not state"),
        (set_imports(("", 0)), "does not state"),
        (set_imports(("com.example", 1)), "does not state"),
        (set_imports(("", 999)), "too new"),
        (set_imports(("", 17), ("ai.onnx", 18)), "contradict"),
        (set_ir_version(2), "too old"),
        (set_ir_version(999), "too new"),
        (lambda proto: proto.ClearField("ir_version"), "too old"),
    ],
)
def test_versions(tmp_path: Path, damage: Damage, what: str, refusal: Refusal) -> None:
    proto = model()
    damage(proto)
    assert what in refusal(write(proto, tmp_path / "m.onnx")).what


def test_unknown_domain_is_fine_if_imported(tmp_path: Path, refusal: Refusal) -> None:
    text = MATMUL.replace('"" : 21', '"" : 21, "com.example" : 7').replace("MatMul", "com.example.Anything")
    assert load(write(model(text, w=np.ones(1)), tmp_path / "m.onnx")).graph[0].domain == "com.example"
    unknown = write(model(text.replace(', "com.example" : 7', ""), w=np.ones(1)), tmp_path / "n.onnx")
    assert "com.example" in refusal(unknown).why


def test_default_domain_by_its_long_name(tmp_path: Path) -> None:
    proto = model()
    proto.opset_import[0].domain = proto.graph.node[0].domain = "ai.onnx"
    loaded = load(write(proto, tmp_path / "m.onnx"))
    assert loaded.opset_imports == {"": 21}
    assert loaded.graph[0].domain == ""


def test_ir_version_3_initializers_are_no_inputs(tmp_path: Path) -> None:
    proto = model()
    proto.ir_version = 3
    proto.graph.input.append(helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 2]))
    loaded = load(write(proto, tmp_path / "m.onnx"))
    assert [value.name for value in loaded.graph.inputs] == ["x"]
    assert loaded.ir_version == 4
    proto.ir_version = 10
    assert [value.name for value in load(write(proto, tmp_path / "n.onnx")).graph.inputs] == ["x", "w"]
