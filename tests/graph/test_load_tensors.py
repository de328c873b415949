"""Tensors in the model file: type, shape and data must agree, and big ones are not read into memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from bct_onnx.errors import InputModelError
from bct_onnx.graph.load import files, load
from tests.graph.handmade import MATMUL, model, peak_memory, refer, write

Refusal = Callable[[Path | str], InputModelError]
Damage = Callable[[onnx.ModelProto], object]


def set_weight(**fields: object) -> Damage:
    def damage(proto: onnx.ModelProto) -> None:
        weight = proto.graph.initializer[0]
        for name, value in fields.items():
            weight.ClearField(name)
            if isinstance(value, list):
                getattr(weight, name).extend(value)
            elif value is not None:
                setattr(weight, name, value)

    return damage


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (set_weight(dims=[4, 3]), "disagree"),
        (set_weight(raw_data=bytes(31)), "disagree"),
        (set_weight(raw_data=b""), "disagree"),
        (set_weight(raw_data=None), "disagree"),
        (set_weight(raw_data=None, float_data=[1.0] * 7), "disagree"),
        (set_weight(raw_data=None, int32_data=[1] * 8), "disagree"),
        (set_weight(raw_data=None, dims=[2**40, 2**40]), "disagree"),
        (set_weight(dims=[2**62, 4]), "disagree"),
        (set_weight(dims=[-1, -32]), "negative"),
        (set_weight(data_type=0), "unknown type"),
        (set_weight(data_type=12345), "unknown type"),
        (set_weight(data_type=onnx.TensorProto.INT4, dims=[65]), "disagree"),
        (set_weight(data_type=onnx.TensorProto.STRING), "disagree"),
    ],
)
def test_shape_and_data(tmp_path: Path, damage: Damage, what: str, refusal: Refusal) -> None:
    proto = model()
    damage(proto)
    tracemalloc.start()
    error = refusal(write(proto, tmp_path / "m.onnx"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert what in error.what
    assert "'w'" in error.where
    assert peak < 10_000_000


@pytest.mark.parametrize(
    "fields",
    [
        {"raw_data": None, "float_data": [1.0] * 8},
        {"raw_data": None, "data_type": onnx.TensorProto.FLOAT16, "int32_data": [15360] * 8},
        {"raw_data": None, "data_type": onnx.TensorProto.INT4, "dims": [3, 3], "int32_data": [0x21] * 5},
        {"raw_data": None, "data_type": onnx.TensorProto.COMPLEX64, "float_data": [1.0] * 16},
        {"raw_data": None, "data_type": onnx.TensorProto.STRING, "string_data": [b"a"] * 8},
        {"raw_data": None, "dims": [0, 2]},
        {"raw_data": bytes(3), "dims": [3, 3], "data_type": onnx.TensorProto.UINT2},
    ],
)
def test_every_way_to_store_a_tensor(tmp_path: Path, fields: dict[str, object]) -> None:
    proto = model()
    set_weight(**fields)(proto)
    tensor = load(write(proto, tmp_path / "m.onnx")).graph.initializers["w"].const_value
    assert tensor is not None
    assert tensor.numpy().shape == tuple(proto.graph.initializer[0].dims)


def test_no_data_need_no_file(tmp_path: Path) -> None:
    proto = model()
    set_weight(dims=[0, 2])(proto)
    refer(proto.graph.initializer[0], location="none.bin", offset=0, length=0)
    tensor = load(write(proto, tmp_path / "m.onnx")).graph.initializers["w"].const_value
    assert tensor is not None
    assert tensor.tobytes() == b""


@pytest.mark.parametrize("place", ["initializer", "constant", "branch"])
def test_big_tensors_stay_in_the_file(tmp_path: Path, place: str) -> None:
    data = np.arange(400_000, dtype=np.float32)
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[400000] x, bool c) => (float[400000] y) {'
    if place == "branch":
        branch = "(c) <then_branch = t () => (float[400000] z) { z = Add (x, w) },"
        text += f"y = If {branch} else_branch = e () => (float[400000] z) {{ z = Identity (x) }}> }}"
    else:
        text += "y = Add (x, w) }"
    proto = model(text, **({} if place == "branch" else {"w": data}))
    if place == "constant":
        proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=proto.graph.initializer.pop()))
    if place == "branch":
        proto.graph.node[0].attribute[0].g.initializer.append(numpy_helper.from_array(data, "w"))
    path = write(proto, tmp_path / "m.onnx")
    loaded = load(path)
    graphs = (graph for graph in loaded.graphs() if "w" in graph.initializers)
    tensor = next(graphs).initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert Path(tensor.path) == path
    assert np.array_equal(tensor.numpy(), data)
    assert files(path) == (path,)


@pytest.mark.whole
def test_loading_a_single_file_takes_no_memory(tmp_path: Path) -> None:
    path = write(model(MATMUL.replace("4", "5000000"), w=np.ones((5_000_000, 2), np.float32)), tmp_path / "m.onnx")
    before, after = peak_memory("from bct_onnx.graph.load import load\n# measured\nm = load(sys.argv[1])", path)
    assert after - before < 15  # MiB; the file has 38
