"""Models whose inputs are no tensors: made smaller as others are, and not compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.session import session
from tests.passes.small import normal


def test_a_sequence_goes_in(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("ConcatFromSequence", ["rows"], ["x"], axis=0),
            helper.make_node("MatMul", ["x", "w"], ["y"]),
        ],
        "g",
        [helper.make_tensor_sequence_value_info("rows", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["all", 64])],
        [numpy_helper.from_array(normal(64, 64), "w")],
    )
    source, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), source)
    report = rewrite(source, "bct-plus", options=Options(out))
    assert "seq(tensor(float))" in report.unchecked
    rows = [normal(2, 64, seed=1), normal(1, 64, seed=2)]
    before, after = (session(each).run(None, {"rows": rows})[0] for each in (source, out))
    assert np.square(before).sum() > 40 * np.square(before - after).sum()  # 16 dB
