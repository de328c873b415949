"""What normalizing keeps, on models that are spelled every way there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bct_onnx.errors import InputModelError, UsageError
from bct_onnx.graph import duplicates
from bct_onnx.graph.canonical import canonical_text
from bct_onnx.graph.load import load
from bct_onnx.graph.tensors import Array
from bct_onnx.runtime.feeds import random_feeds
from bct_onnx.runtime.session import run, session
from bct_onnx.runtime.vocabulary import vocabulary
from passes.fold_constants import FoldConstants
from passes.normalize import Normalize
from tests.graph import handmade

TABLE = np.random.default_rng(0).standard_normal((256, 128)).astype(np.float32)


def tied(table: Array, weight: Array) -> ir.Model:
    """Table and output weight as two initializers."""
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (int64[batch,sequence] input_ids) => (float[batch,sequence,v] y)
        { e = Gather (table, input_ids) y = MatMul (e, weight) }"""
    )
    for name, array in (("table", table), ("weight", weight)):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
    return ir.from_proto(proto)


def test_transposed_copy_of_a_table_is_stored_once() -> None:
    model = tied(TABLE, TABLE.T)
    feeds = random_feeds(model, batch=2, vocab=vocabulary(model))
    before = run(session(model), feeds)
    applied = Normalize().call(model)
    assert list(model.graph.initializers) == ["table"]
    assert [node.op_type for node in model.graph] == ["Transpose", "Gather", "MatMul"]
    assert any("transposed copy" in site.note for site in applied.sites)
    np.testing.assert_array_equal(before[0], run(session(model), feeds)[0])


def test_one_different_element_is_a_different_table() -> None:
    weight = TABLE.T.copy()
    weight[17, 201] = np.nextafter(weight[17, 201], np.float32(9))
    model = tied(TABLE, weight)
    Normalize()(model)
    assert set(model.graph.initializers) == {"table", "weight"}


def test_strips_cover_the_whole_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "STRIP", 1000)
    last = TABLE.T.copy()
    last[-1, -1] += 1
    for weight, expected in ((TABLE.T, {"table"}), (last, {"table", "weight"})):
        model = tied(TABLE, weight)
        Normalize()(model)
        assert set(model.graph.initializers) == expected
    same = tied(TABLE, TABLE.copy())
    (pair,) = duplicates.equal(same.graph.initializers.values())
    assert [value.name for value in pair] == ["weight", "table"]
    other = TABLE.copy()
    other[-1, -1] += 1
    assert not duplicates.equal(tied(TABLE, other).graph.initializers.values())


def test_minus_zero_is_not_zero_and_nan_is_nan() -> None:
    zero, nan = np.zeros(100, np.float32), np.full(100, np.nan, np.float32)
    assert not duplicates.equal(tied(zero, -zero).graph.initializers.values())
    assert duplicates.equal(tied(nan, nan).graph.initializers.values())


def test_interface_and_metadata_are_kept() -> None:
    proto = handmade.parse(
        """<ir_version: 8, opset_import: ["" : 13]>
        g (int64[batch,"past + sequence"] mask, float[batch,4] x) => (float[any_batch,4] out, float[any_batch,4] twice)
        { c = Cast <to = 1> (mask) m = ReduceMax <axes = [1]> (c) p = Mul (x, m) out = Identity (p)
          twice = Identity (p) }"""
    )
    proto.metadata_props.add(key="author", value="somebody")
    proto.doc_string = "a model"
    proto.graph.doc_string = "a graph"
    model = ir.from_proto(proto)
    Normalize()(model)
    after = ir.to_proto(model)
    assert list(after.graph.input) == list(proto.graph.input)
    assert list(after.graph.output) == list(proto.graph.output)
    assert list(after.metadata_props) == list(proto.metadata_props)
    assert (after.doc_string, after.graph.doc_string) == (proto.doc_string, proto.graph.doc_string)
    session(model)


def test_stale_shapes_are_forgotten() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 23]> g (float[batch,4] x) => (float[batch,4] y)
        { [neg] a = Neg (x) [exp] y = Exp (a) }"""
    )
    (stale,) = model.graph.node(0).outputs
    stale.shape = ir.Shape([7, 9])
    Normalize()(model)
    assert stale.shape == ir.Shape(["batch", 4])


def test_a_second_run_finds_nothing_to_do() -> None:
    model = tied(TABLE, TABLE.T)
    Normalize()(model)
    before = canonical_text(model)
    again = Normalize().call(model)
    assert not again.sites
    assert canonical_text(model) == before


def test_nodes_get_unique_names() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 23]> g (float[n] x) => (float[n] y)
        { [same] a = Neg (x) [same] b = Exp (a) y = Abs (b) }"""
    )
    Normalize()(model)
    assert [node.name for node in model.graph] == ["same", "same_1", "Abs"]


@pytest.mark.parametrize("version", [3, 4, 8])
def test_initializers_are_no_inputs_where_they_had_to_be(version: int) -> None:
    """From IR version 4 on one that is listed is an input with a default, which a caller may replace."""
    model = ir.from_onnx_text(
        f"""<ir_version: {version}, opset_import: ["" : 17]> g (float[2] x, float[2] w) => (float[2] y)
        <float[2] w = {{1, 2}}> {{ y = Mul (x, w) }}"""
    )
    applied = Normalize().call(model)
    assert [value.name for value in model.graph.inputs] == (["x"] if version == 3 else ["x", "w"])
    assert any(site.before == ("w",) for site in applied.sites) == (version == 3)
    assert "w" in model.graph.initializers


def test_constants_of_subgraphs_move_to_the_root() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 23]> g (bool c, float[n] x) => (float[n] y) {
            y = If (c) <then_branch = t () => (float[n] a) { k = Constant <value_float = 2.0> () a = Mul (x, k) },
                        else_branch = e () => (float[n] b) { k = Constant <value_float = 3.0> () b = Mul (x, k) }>
        }"""
    )
    Normalize()(model)
    assert sorted(float(value.const_value.numpy()) for value in model.graph.initializers.values()) == [2, 3]  # type: ignore[union-attr]
    for condition, factor in ((True, 2), (False, 3)):
        (y,) = run(session(model), {"c": np.array(condition), "x": np.ones(2, np.float32)})
        assert y.tolist() == [factor, factor]


def test_own_functions_are_kept_and_others_inlined() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 23, "ai.bct" : 1, "other" : 1]> g (float[n] x) => (float[n] y)
        { a = ai.bct.keep (x) y = other.go (a) }
        <domain: "ai.bct", opset_import: ["" : 23]> keep (a) => (b) { b = Neg (a) }
        <domain: "other", opset_import: ["" : 21]> go (a) => (b) { b = Exp (a) }"""
    )
    Normalize()(model)
    assert [node.op_type for node in model.graph] == ["keep", "Exp"]
    assert [function.name for function in model.functions.values()] == ["keep"]


@pytest.mark.parametrize("opset", [20, 99])
def test_an_opset_out_of_range_is_an_error_of_use(opset: int) -> None:
    with pytest.raises(UsageError, match="out of range"):
        Normalize(opset=opset)


def test_a_cycle_is_refused() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 23]> g (float[n] x) => (float[n] y) { a = Neg (x) y = Exp (a) }"""
    )
    first, second = model.graph
    first.replace_input_with(0, second.outputs[0])
    with pytest.raises(InputModelError, match="cycle"):
        Normalize()(model)


def test_bundled_model_keeps_its_outputs(bundled_model: Path) -> None:
    model = load(bundled_model)
    nodes = sum(1 for _ in model.graph)
    feeds = random_feeds(model, batch=3, sequence=9, vocab=vocabulary(model), padding=True)
    Normalize()(model)
    FoldConstants()(model)
    assert sum(1 for _ in model.graph) < nodes
    for before, after in zip(run(session(bundled_model), feeds), run(session(model), feeds), strict=True):
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-5)
