"""What `fuse-linear` promises beyond its golden cases: names, provenance, shapes, subgraphs, and real exports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.forms.linear import Linear
from bct_onnx.graph import dims, provenance
from bct_onnx.rewriting import rewrite
from passes.fuse_linear import FuseLinear
from tests.passes import small


def layers(count: int) -> ir.Model:
    """Linear layers one behind the other; the sequence is only known to the input."""
    body = "".join(
        f"""rows{i} = Reshape (x{i}, flat)  z{i} = Gemm (rows{i}, w, b)  r{i} = Reshape (z{i}, shape)
        x{i + 1} = Gelu (r{i}) """
        for i in range(count)
    )
    return small.model(
        f"""g (float[batch,sequence,8] x0, int64[1] length) => (float[batch,s,8] x{count})
        <int64[2] flat = {{-1, 8}}, int64[1] width = {{8}}>
        {{ size = Shape <end = 1> (x0)  shape = Concat <axis = 0> (size, length, width) {body} }}""",
        w=small.normal(8, 8),
        b=small.normal(8, seed=1),
    )


def test_every_layer_is_lifted_and_the_sequence_keeps_its_name() -> None:
    model = layers(3)
    x = small.normal(2, 5, 8)
    feeds = {"x0": x, "length": np.array([5])}
    before = small.outputs(model, **feeds)
    applied = small.apply(FuseLinear(), model)
    assert [site.before for site in applied.sites] == [("Reshape", "Gemm", "Reshape")] * 3
    assert small.ops(model) == {"MatMul": 3, "Add": 3, "Gelu": 3}
    shapes = {dims.of(node.outputs[0]) for node in model.graph if not node.outputs[0].is_graph_output()}
    assert shapes == {("batch", "sequence", 8)}
    for level, (y,) in small.outputs(model, x0=x, length=np.array([5])).items():
        np.testing.assert_allclose(y, before[level][0], rtol=0, atol=1e-5)


def test_a_second_run_changes_nothing() -> None:
    model = layers(2)
    FuseLinear()(model)
    again = FuseLinear()(model)
    assert not again.modified


def test_new_nodes_say_what_they_stand_for() -> None:
    model = layers(1)
    pieces = [node for node in model.graph if node.op_type in ("Reshape", "Gemm")]
    for name, node in zip(("first", "gemm", "last"), pieces, strict=True):
        node.name = name
    FuseLinear()(model)
    (product,) = [node for node in model.graph if node.op_type == "MatMul"]
    assert product.metadata_props[provenance.REPLACED] == "first gemm last"
    assert product.metadata_props[provenance.PASS] == "fuse-linear"


def test_a_transposed_weight_is_still_seen_as_a_weight() -> None:
    model = small.model(
        """g (float[batch,sequence,8] x) => (float[batch,sequence,6] y)
        <int64[2] flat = {-1, 8}, int64[1] width = {6}>
        { size = Shape <end = 2> (x)  shape = Concat <axis = 0> (size, width)  rows = Reshape (x, flat)
          z = Gemm <transB = 1> (rows, w)  y = Reshape (z, shape) }""",
        w=small.normal(6, 8),
    )
    small.apply(FuseLinear(), model)
    (product,) = [node for node in model.graph if node.op_type == "MatMul"]
    found = Linear.of(product)
    assert found is not None and found.weight.name == "w" and found.transposed and not found.refusal


def test_a_result_that_a_subgraph_reads_is_left_alone() -> None:
    model = small.model(
        """g (float[batch,sequence,8] x, bool c) => (float[batch,sequence,8] y) <int64[2] flat = {-1, 8}>
        { shape = Shape (x)  rows = Reshape (x, flat)  z = Gemm (rows, w)
          y = If (c) <then_branch = one () => (float[batch,sequence,8] r) { r = Reshape (z, shape) },
                      else_branch = two () => (float[batch,sequence,8] s) { s = Identity (x) }> }""",
        w=small.normal(8, 8),
    )
    applied = small.apply(FuseLinear(), model)
    assert not applied.modified
    assert [one.reason for one in applied.declined] == ["its result is used in a subgraph"]


@pytest.mark.export
@pytest.mark.parametrize("exporter", ["dynamo", "optimum"])
@pytest.mark.parametrize("attention", ["eager", "default"])
def test_no_gemm_is_left_in_gpt2(exported_small: Callable[..., Path], exporter: str, attention: str) -> None:
    model = ir.load(exported_small("gpt2", exporter, attention))
    report = rewrite(model, "lift", target="portable")
    assert small.ops(model).get("Gemm", 0) == 0
    assert small.ops(model)["MatMul"] == 2 * 4 + 1
    assert report.parity is not None and report.parity.max_abs < 1e-4
