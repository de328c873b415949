"""Edits: new nodes in front of an old one, uses handed over, names kept, dead nodes gone."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from bct_onnx.graph import provenance
from bct_onnx.graph.edit import Edit, drop_dead
from tests.passes.small import check, model, normal

TEXT = "g (float[n,8] x) => (float[n,8] y) { a = Neg (x)  b = Exp (a)  y = Add (b, c) }"


def test_replace_hands_over_uses_and_drops_what_is_dead() -> None:
    target = model(TEXT, c=normal(8))
    neg, exp, add = target.graph
    exp.name = "old"
    edit = Edit(exp)
    edit.replace(exp.outputs[0], edit.op("Abs", neg.inputs[0], name="new"))
    assert [node.op_type for node in target.graph] == ["Abs", "Add"]
    made = add.inputs[0]
    assert made is not None and made.name == "b" and made.dtype == ir.DataType.FLOAT and made.shape == ["n", 8]
    (node,) = edit.made
    assert node.name == "old/new" and node.metadata_props[provenance.REPLACED] == "old"


def test_outputs_of_the_graph_keep_their_names() -> None:
    target = model(TEXT, c=normal(8))
    add = target.graph[-1]
    edit = Edit(add)
    edit.replace(add.outputs[0], edit.op("Mul", *add.inputs))
    (output,) = target.graph.outputs
    assert output.name == "y" and output.producer() is edit.made[0] and output.dtype == ir.DataType.FLOAT


def test_provenance_goes_back_to_the_first_nodes() -> None:
    target = model(TEXT, c=normal(8))
    for node, name in zip(target.graph, ("one", "two", "three"), strict=True):
        node.name = name
    for _ in range(2):
        node = target.graph[1]
        edit = Edit(node)
        edit.replace(node.outputs[0], edit.op("Abs", node.inputs[0]))
    assert target.graph[1].metadata_props[provenance.REPLACED] == "two"


def test_what_is_still_used_stays() -> None:
    target = model("g (float[n] x) => (float[n] y, float[n] z) { a = Neg (x)  y = Exp (a)  z = Abs (a) }")
    neg, exp, absolute = target.graph
    drop_dead([exp, absolute])
    assert len(target.graph) == 3
    edit = Edit(absolute)
    edit.replace(absolute.outputs[0], edit.op("Sqrt", neg.inputs[0]))
    assert [node.op_type for node in target.graph] == ["Neg", "Exp", "Sqrt"]


def test_constants_get_fresh_names() -> None:
    target = model(TEXT, c=normal(8))
    edit = Edit(target.graph[0])
    assert edit.scalar("c", 2.0, ir.DataType.FLOAT16).name == "c_1"
    assert edit.shape("c", [1, -1]).dtype == ir.DataType.INT64


def test_behind_the_anchor_in_the_order_of_making() -> None:
    target = model(TEXT, c=normal(8))
    neg = target.graph[0]
    edit = Edit(neg, after=True)
    value = edit.op("Cos", edit.op("Sin", neg.outputs[0]))
    edit.scalar("s", 1.0, ir.DataType.FLOAT)
    value = edit.op("Tanh", value)
    assert [node.op_type for node in target.graph] == ["Neg", "Sin", "Cos", "Tanh", "Exp", "Add"]
    exp = target.graph[4]
    exp.replace_input_with(0, value)
    check(target)
    assert edit.made == list(target.graph)[1:4]


def test_behind_the_last_node() -> None:
    target = model(TEXT, c=normal(8))
    add = target.graph[-1]
    Edit(add, after=True).op("Sin", add.outputs[0])
    assert [node.op_type for node in target.graph][-2:] == ["Add", "Sin"]


def test_what_is_known_of_a_value_is_handed_on() -> None:
    target = model(TEXT, c=normal(8))
    exp = target.graph[1]
    exp.outputs[0].meta["known"] = 7
    edit = Edit(exp)
    made = edit.op("Abs", exp.inputs[0])
    edit.replace(exp.outputs[0], made)
    assert made.meta["known"] == 7


def test_a_node_of_no_graph_is_no_anchor() -> None:
    with pytest.raises(ValueError, match="belongs to no graph"):
        Edit(ir.node("Neg", [None]))


def test_new_nodes_and_values_get_names_of_their_own() -> None:
    target = model(
        """g (float[n] x, bool c) => (float[n] y) { h = Neg (x)
        y = If (c) <then_branch = t () => (float[n] u) { u = Exp (h) },
                    else_branch = e () => (float[n] v) { v = Abs (h) }> }"""
    )
    with provenance.stamping(target, "test"):
        for graph in (target.graph, *target.graph.subgraphs()):
            edit = Edit(graph[0], "same")
            edit.op("Sqrt", target.graph.inputs[0])
    nodes = list(target.graph.all_nodes())
    made = [node for node in nodes if node.op_type == "Sqrt"]
    assert len({node.name for node in made}) == 3 and len({node.outputs[0].name for node in made}) == 3
    assert all(node.metadata_props[provenance.PASS] == "test" for node in made)
    assert {node.op_type for node in nodes if provenance.PASS not in node.metadata_props} == {"Neg", "If", "Exp", "Abs"}
