"""bfloat16 becomes float32 everywhere: weights, casts, branches, inputs and outputs."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bct_onnx.graph.load import load
from bct_onnx.graph.widen import is_narrow, widen
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.session import run, session

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
    narrow (bfloat16[n, 8] x, bool c) => (bfloat16[n, 4] y, float[n, 4] wide) {
        p = MatMul (x, w)
        q = If (c) <then_branch = one () => (bfloat16[n, 4] a) {
                        f = Cast <to = 1> (p) g = Relu (f) a = Cast <to = 16> (g) },
                    else_branch = two () => (bfloat16[n, 4] b) { b = Neg (p) }>
        zero = ConstantOfShape <value = bfloat16[1] {0}> (shape)
        y = Add (q, zero)
        wide = Cast <to = 1> (y)
    }"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    proto = onnx.parser.parse_model(TEXT)
    weight = np.random.default_rng(0).standard_normal((8, 4)).astype(ml_dtypes.bfloat16)
    proto.graph.initializer.append(ir.to_proto(ir.Tensor(weight, name="w")))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([4], np.int64), "shape"))
    onnx.save(proto, tmp_path / "narrow.onnx")
    return tmp_path / "narrow.onnx"


def test_every_value_is_float32_and_computes_the_same(file: Path) -> None:
    model = load(file)
    assert is_narrow(model)
    weight = np.asarray(model.graph.initializers["w"].const_value).astype(np.float32)
    assert widen(model) and not is_narrow(model)
    types = {value.dtype for node in model.graph.all_nodes() for value in node.outputs}
    assert ir.DataType.BFLOAT16 not in types
    assert not any(node.op_type == "Cast" for node in model.graph if not node.outputs[0].is_graph_output())
    x = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
    for branch, expected in ((True, np.maximum(x @ weight, 0)), (False, -(x @ weight))):
        y, wide = run(session(model), {"x": x, "c": np.array(branch)})
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(y, wide)


def test_a_rewrite_of_it_is_checked(file: Path) -> None:
    report = rewrite(file, "lift", options=Options())
    assert report.parity is not None and report.parity.sqnr_db > 100
