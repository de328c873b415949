"""Names that do not make a graph (unknown, doubled, in a cycle) are refused, and nodes are sorted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bct_onnx.errors import InputModelError
from bct_onnx.graph.load import load
from tests.graph.handmade import BRANCHES, FUNCTION, model, write

Refusal = Callable[[Path | str], InputModelError]
Damage = Callable[[onnx.ModelProto], object]


def add_node(op_type: str, inputs: list[str], outputs: list[str]) -> Damage:
    return lambda proto: proto.graph.node.append(helper.make_node(op_type, inputs, outputs))


def add_input(name: str) -> Damage:
    return lambda proto: proto.graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]))


def add_output(name: str) -> Damage:
    return lambda proto: proto.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]))


def add_initializer(name: str) -> Damage:
    return lambda proto: proto.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), name))


def clear(field: str) -> Damage:
    return lambda proto: proto.graph.ClearField(field)


@pytest.mark.parametrize(
    ("damages", "what"),
    [
        ([clear("node")], "no nodes"),
        ([clear("output")], "no outputs"),
        ([clear("initializer")], "nothing produces the value 'w'"),
        ([add_node("Relu", ["nowhere"], ["z"])], "nothing produces the value 'nowhere'"),
        ([add_node("Relu", ["x"], ["y"])], "'y' is produced twice"),
        ([add_node("Split", ["x"], ["z", "z"])], "'z' is produced twice"),
        ([add_node("Relu", ["x"], ["w"])], "'w' is produced twice"),
        ([add_node("Relu", ["y"], ["x"])], "'x' is produced twice"),
        ([add_initializer("w")], "'w' is the name of two initializers"),
        ([add_initializer("")], "no name"),
        ([add_input("x")], "'x' is listed twice among the graph's inputs"),
        ([add_output("y")], "'y' is listed twice among the graph's outputs, with different types"),
        ([add_output("nowhere")], "nothing produces the output 'nowhere'"),
        ([add_node("Add", ["x", "b"], ["a"]), add_node("Add", ["x", "a"], ["b"])], "cycle"),
        ([add_node("Add", ["x", "a"], ["a"])], "cycle"),
        ([lambda proto: proto.graph.sparse_initializer.add()], "sparse"),
        ([lambda proto: proto.graph.node[0].attribute.add(name="a")], "an attribute has no value"),
        ([lambda proto: proto.graph.node[0].attribute.add(name="a", type=4)], "an attribute has no value"),
        ([lambda proto: proto.graph.node[0].attribute.add(name="a", type=5)], "an attribute has no value"),
        ([lambda proto: proto.graph.input[0].type.map_type.SetInParent()], "cannot be read"),
    ],
)
def test_names(tmp_path: Path, damages: list[Damage], what: str, refusal: Refusal) -> None:
    proto = model()
    for damage in damages:
        damage(proto)
    assert what in refusal(write(proto, tmp_path / "m.onnx")).what


def test_outputs_may_be_inputs_or_initializers(tmp_path: Path) -> None:
    proto = model()
    add_output("x")(proto)
    add_output("w")(proto)
    assert [value.name for value in load(write(proto, tmp_path / "m.onnx")).graph.outputs] == ["y", "x", "w"]


def test_an_output_may_be_listed_twice_but_not_in_a_branch(tmp_path: Path, refusal: Refusal) -> None:
    proto = model()
    proto.graph.output.add().CopyFrom(proto.graph.output[0])
    loaded = load(write(proto, tmp_path / "m.onnx"))
    assert [value.name for value in loaded.graph.outputs] == ["y", "y"]
    proto = model(BRANCHES)
    branch = proto.graph.node[0].attribute[0].g
    branch.output.add().CopyFrom(branch.output[0])
    assert "is listed twice among the graph's outputs" in refusal(write(proto, tmp_path / "m.onnx")).what


def test_unsorted_nodes_are_sorted_also_for_subgraphs(tmp_path: Path) -> None:
    loaded = load(write(model(BRANCHES), tmp_path / "m.onnx"))
    assert [node.op_type for node in loaded.graph] == ["Relu", "If"]
    late = loaded.graph[0].outputs[0]
    assert all(graph[0].inputs[1] is late for graph in loaded.graph.subgraphs())


def test_sorted_nodes_keep_their_order(tmp_path: Path) -> None:
    nodes = "".join(f"n{i} = Relu (n{max(0, i - 3) if i % 2 else 0})\n" for i in range(1, 40))
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[2] n0) => (float[2] n39) {' + nodes + "}"
    loaded = load(write(model(text), tmp_path / "m.onnx"))
    assert [node.outputs[0].name for node in loaded.graph] == [f"n{i}" for i in range(1, 40)]


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("a = Add (x, late)", "a = Add (x, nowhere)", "nothing produces the value 'nowhere'"),
        ("a = Add (x, late)", "b = Add (x, late)", "nothing produces the output 'a'"),
        ("a = Add (x, late)", "a = Add (x, late) a = Relu (x)", "'a' is produced twice"),
        ("late = Relu (x)", "late = Relu (y)", "cycle"),
    ],
)
def test_names_in_subgraphs(tmp_path: Path, old: str, new: str, what: str, refusal: Refusal) -> None:
    assert what in refusal(write(model(BRANCHES.replace(old, new)), tmp_path / "m.onnx")).what


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("Neg (c)", "Neg (d)", "nothing produces the value 'd'"),
        ("c = Relu (a)", "a = Relu (a)", "'a' is produced twice"),
        ("b = Neg (c)", "d = Neg (c)", "nothing produces the output 'b'"),
        ("c = Relu (a)", "c = Relu (b)", "cycle"),
        ('["" : 21]> f', '["" : 999]> f', "too new"),
        ('["" : 21]> f (a) => (b) { c = Relu', '["" : 21, "local" : 1]> f (a) => (b) { c = local.f', "call each other"),
    ],
)
def test_names_in_functions(tmp_path: Path, old: str, new: str, what: str, refusal: Refusal) -> None:
    load(write(model(FUNCTION), tmp_path / "good.onnx"))
    assert what in refusal(write(model(FUNCTION.replace(old, new)), tmp_path / "m.onnx")).what
