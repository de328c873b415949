"""Constants: made, read, and let go of again; of the spool is `test_spool`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.graph import names
from bct_onnx.graph import save as save_module
from bct_onnx.graph.load import load
from bct_onnx.graph.save import save
from bct_onnx.graph.tensors import array, constant, release, small_constant
from tests.graph.handmade import external, model, peak_memory, write

Array = np.ndarray[Any, np.dtype[Any]]

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[4] x, bool c) => (float[4] y) <float[4] w = {1, 2, 3, 4}> {
        h = Add (x, w)
        y = If (c) <then_branch = one () => (float[4] inner) { inner = Relu (h) },
                    else_branch = two () => (float[4] a) <float[4] deep = {1, 2, 3, 4}> { a = Add (h, deep) }>
    }"""


@pytest.fixture
def graph() -> ir.Graph:
    return ir.from_onnx_text(TEXT).graph


def tensor_of(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None
    return value.const_value


# Names


@pytest.mark.parametrize("taken", ["x", "w", "h", "y", "inner", "deep", "a"])
def test_names_are_fresh_in_subgraphs_too(graph: ir.Graph, taken: str) -> None:
    assert names.fresh_name(graph, taken) == f"{taken}_1"
    assert [constant(graph, taken, np.ones(1)).name for _ in range(3)] == [f"{taken}_{i}" for i in (1, 2, 3)]


@pytest.mark.parametrize("taken", ["x", "w", "h", "y", "inner", "deep", "a"])
def test_names_are_fresh_where_a_graph_is_looked_through_once(graph: ir.Graph, taken: str) -> None:
    with names.remembered():
        made = [constant(graph, taken, np.ones(1)).name for _ in range(3)]
        graph.initializers.add(ir.val(f"{taken}_4", const_value=ir.tensor(np.ones(1))))
        made.append(constant(graph, taken, np.ones(1)).name)
    assert made == [f"{taken}_{i}" for i in (1, 2, 3, 5)]


def test_a_name_is_free_again_when_its_value_is_gone(graph: ir.Graph) -> None:
    with names.remembered():
        constant(graph, "new", np.ones(1))
        del graph.initializers["new"]
        assert constant(graph, "new", np.ones(1)).name == "new"


def test_free_names_are_kept(graph: ir.Graph) -> None:
    assert constant(graph, "new", np.ones(1)).name == "new"
    assert "new" in graph.initializers


# Making


def test_a_constant_knows_its_type_and_shape(graph: ir.Graph) -> None:
    value = constant(graph, "c", np.zeros((2, 3), np.float16))
    assert value.dtype == ir.DataType.FLOAT16
    assert value.shape == ir.Shape([2, 3])
    assert value.is_initializer()
    assert constant(graph, "s", np.float32(2)).shape == ir.Shape([])


@pytest.mark.parametrize(
    ("dtype", "values", "stored"),
    [
        ("INT4", [-8, 7, 1], "7801"),
        ("UINT4", [0, 15, 1], "f001"),
        ("INT2", [-2, 1, 0, -1, 1], "c601"),
        ("UINT2", [3, 0, 1, 2, 1], "9301"),
        ("INT8", [-128, 127], "807f"),
    ],
)
def test_integers_are_packed_and_survive_saving(
    graph: ir.Graph, tmp_path: Path, dtype: str, values: list[int], stored: str
) -> None:
    kind = ir.DataType[dtype]
    given: list[Array] = [np.array(values), np.array(values).astype(kind.numpy())]
    for data in given:
        value = constant(graph, "codes", data, kind)
        assert tensor_of(value).tobytes().hex() == stored
        graph.outputs.append(value)
    save(ir.Model(graph, ir_version=13), tmp_path / "m.onnx")
    for name in ("codes", "codes_1"):
        again = array(load(tmp_path / "m.onnx").graph.initializers[name])
        assert again.dtype == kind.numpy()
        assert np.array_equal(again.astype(int), values)


@pytest.mark.parametrize(("dtype", "value"), [("INT4", 8), ("INT4", -9), ("UINT4", -1), ("INT2", 2), ("INT8", 128)])
def test_integers_that_do_not_fit(graph: ir.Graph, dtype: str, value: int) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        constant(graph, "codes", np.array([0, value]), ir.DataType[dtype])
    assert "codes" not in graph.initializers


def test_floats_are_converted(graph: ir.Graph) -> None:
    value = constant(graph, "c", np.array([1.5, -2.0]), ir.DataType.BFLOAT16)
    assert array(value).dtype == ml_dtypes.bfloat16
    assert array(value).tolist() == [1.5, -2.0]


def test_tensors_serve_several_constants(graph: ir.Graph, tmp_path: Path) -> None:
    loaded = load(external(tmp_path / "m.onnx"))
    source = tensor_of(loaded.graph.initializers["w"])
    tied = [constant(graph, name, source) for name in ("one", "two")]
    assert [tensor_of(value).name for value in tied] == ["one", "two"]
    assert source.name == "w"
    assert all(isinstance(value.const_value, ir.ExternalTensor) for value in tied)
    assert all(np.array_equal(array(value), array(source)) for value in tied)
    half = constant(graph, "half", source, ir.DataType.FLOAT16)
    assert np.array_equal(array(half), array(source))
    in_memory = ir.tensor(np.ones(2, np.float32), name="mine")
    assert [tensor_of(constant(graph, name, in_memory)).name for name in ("three", "four")] == ["three", "four"]


# Reading


def test_array_of_constant_nodes_and_others(graph: ir.Graph) -> None:
    node = ir.node("Constant", [], {"value_floats": [1.0, 2.0]})
    assert array(node.outputs[0]).tolist() == [1, 2]
    assert array(graph.initializers["w"]).tolist() == [1, 2, 3, 4]
    assert array(ir.tensor([7])).tolist() == [7]
    for value in (graph.inputs[0], graph.outputs[0]):
        with pytest.raises(ValueError, match="not a constant"):
            array(value)


def test_small_constants(graph: ir.Graph, tmp_path: Path) -> None:
    data = small_constant(graph.initializers["w"])
    assert data is not None
    assert data.tolist() == [1, 2, 3, 4]
    assert small_constant(graph.initializers["w"], limit=3) is None
    assert small_constant(graph.inputs[0]) is None
    assert small_constant(None) is None
    value = load(external(tmp_path / "m.onnx")).graph.initializers["w"]
    assert small_constant(value, limit=7) is None
    assert getattr(value.const_value, "raw", "?") is None  # not even mapped
    data = small_constant(value)
    assert data is not None
    assert data[3, 1] == 7
    assert getattr(value.const_value, "raw", "?") is None  # and not left mapped


def test_release(graph: ir.Graph, tmp_path: Path) -> None:
    value = load(external(tmp_path / "m.onnx")).graph.initializers["w"]
    held = array(value)
    release(value)
    assert held[3, 1] == 7  # an array in use keeps its mapping
    assert getattr(value.const_value, "raw", "?") is None
    assert array(value)[3, 1] == 7
    release(value)
    release(value)
    release(graph.initializers["w"])
    release(graph.inputs[0])
    assert array(graph.initializers["w"])[0] == 1


READ = """
import numpy as np
from bct_onnx.graph.load import load
from bct_onnx.graph.tensors import array, release
model = load(sys.argv[1])
# measured
for value in model.graph.initializers.values():
    assert array(value).sum() == 1 << 20
    release(value)
"""


def many_weights(path: Path) -> Path:
    """A model of 12 tensors of 4 MiB."""
    ones = np.ones(1 << 20, np.float32)
    weights = {f"w{i}": ones for i in range(12)}
    text = f'<ir_version: 10, opset_import: ["" : 21]> g () => (float[1048576] y) {{ y = Sum ({", ".join(weights)}) }}'
    return write(model(text, **weights), path)


@pytest.mark.parametrize("embedded", [0, 1 << 30])
@pytest.mark.whole
def test_reading_with_release_keeps_memory_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedded: int) -> None:
    monkeypatch.setattr(save_module, "EMBEDDED", embedded)
    save(load(many_weights(tmp_path / "in.onnx")), tmp_path / "m.onnx")
    before, after = peak_memory(READ, tmp_path / "m.onnx")
    assert after - before < 20  # MiB; the weights have 48


# The spool
