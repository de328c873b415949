"""What `fuse-gelu` promises beyond its golden cases."""

from __future__ import annotations

import onnx_ir as ir

from bct_onnx.graph import provenance
from passes.fuse_gelu import FuseGelu

CHAIN = """<ir_version: 10, opset_import: ["": 23]> g (float[n] x0) => (float[n] x3)
    <float root = {1.4142135}, float one = {1}, float half = {0.5}> { %s }"""
GELU = """[div{i}] d{i} = Div (x{i}, root)  [erf{i}] e{i} = Erf (d{i})  [add{i}] f{i} = Add (e{i}, one)
    [gate{i}] m{i} = Mul (x{i}, f{i})  [half{i}] x{j} = Mul (m{i}, half) """


def chain() -> ir.Model:
    return ir.from_onnx_text(CHAIN % "".join(GELU.format(i=i, j=i + 1) for i in range(3)))


def test_each_in_a_chain_is_fused_for_itself() -> None:
    model = chain()
    result = FuseGelu().apply(model)
    assert [node.op_type for node in model.graph] == ["Gelu"] * 3
    assert [site.before for site in result.sites] == [("Div", "Erf", "Add", "Mul", "Mul")] * 3
    assert [value.name for value in model.graph.outputs] == ["x3"]


def test_a_new_node_says_what_it_replaced() -> None:
    model = chain()
    FuseGelu()(model)
    first = model.graph[0]
    assert first.metadata_props[provenance.PASS] == "fuse-gelu"
    assert set(first.metadata_props[provenance.REPLACED].split()) == {"div0", "erf0", "add0", "gate0", "half0"}


def test_a_second_run_changes_nothing() -> None:
    model = chain()
    FuseGelu()(model)
    again = FuseGelu().apply(model)
    assert (again.sites, again.declined) == ((), ())


def test_other_domains_are_not_read_as_standard_operators() -> None:
    text = CHAIN.replace('"": 23', '"": 23, "other": 1') % (GELU.format(i=0, j=3).replace("Erf", "other.Erf"))
    model = ir.from_onnx_text(text)
    before = [node.op_type for node in model.graph]
    assert not FuseGelu().apply(model).sites
    assert [node.op_type for node in model.graph] == before
