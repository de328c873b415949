"""Transposes that undo each other across elementwise operators go, and the outputs stay what they were."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import helper

from bct_onnx.graph import shapes, transposes
from bct_onnx.runtime.session import run, session
from tests.examples import examples

SHAPE = (2, 3, 4)
STEPS = st.lists(
    st.tuples(st.sampled_from(["turn", "relu", "add", "bias", "split", "join"]), st.integers(0, 99)), max_size=12
)


def _program(steps: list[tuple[str, int]], outputs: list[int], dtype: npt.DTypeLike) -> onnx.ModelProto:
    """A program in which every step reads values made before it; those by ``outputs`` are its outputs."""
    kind_of_values = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    values = [("x", SHAPE)]
    nodes, constants = [], []
    for number, (kind, choice) in enumerate(steps):
        source, shape = values[choice % len(values)]
        name = f"v{number}"
        if kind == "turn":
            nodes.append(helper.make_node("Transpose", [source], [name], perm=[0, 2, 1]))
            shape = (shape[0], shape[2], shape[1])
        elif kind == "relu":
            nodes.append(helper.make_node("Abs", [source], [name]))
        elif kind == "bias":
            data = (3 * np.random.default_rng(number).standard_normal((shape[1], 1))).astype(dtype)
            constants.append(onnx.numpy_helper.from_array(data, f"c{number}"))
            nodes.append(helper.make_node("Mul", [f"c{number}", source], [name]))
        elif kind == "split":
            other = f"w{number}"
            sizes = [1, shape[1] - 1]
            if not sizes[1]:
                continue
            constants.append(onnx.numpy_helper.from_array(np.array(sizes), f"c{number}"))
            nodes.append(helper.make_node("Split", [source, f"c{number}"], [other, name], axis=1))
            shape = (shape[0], sizes[1], shape[2])
        else:
            others = [value for value, size in values if size == shape]
            pair = [source, others[-1]]
            joined = helper.make_node("Concat", pair, [name], axis=1)
            nodes.append(helper.make_node("Add", pair, [name]) if kind == "add" else joined)
            shape = shape if kind == "add" else (shape[0], 2 * shape[1], shape[2])
        values.append((name, shape))
    chosen = list(dict.fromkeys(values[index % len(values)] for index in outputs if len(values) > 1)) or values[-1:]
    chosen = [one for one in chosen if one[0] != "x"] or values[-1:]
    if chosen[0][0] == "x":
        nodes.append(helper.make_node("Identity", ["x"], ["y"]))
        chosen = [("y", SHAPE)]
    results = [helper.make_tensor_value_info(name, kind_of_values, shape) for name, shape in chosen]
    x = helper.make_tensor_value_info("x", kind_of_values, SHAPE)
    graph = helper.make_graph(nodes, "g", [x], results, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@examples(60)
@example([("turn", 0), ("bias", 1), ("turn", 2)], [3], np.int64)
@given(STEPS, st.lists(st.integers(0, 99), min_size=1, max_size=3), st.sampled_from([np.float32, np.int64]))
def test_any_program_computes_the_same_with_fewer_transposes(
    steps: list[tuple[str, int]], outputs: list[int], dtype: npt.DTypeLike
) -> None:
    proto = _program(steps, outputs, dtype)
    x = (9 * np.random.default_rng(0).standard_normal(SHAPE)).astype(dtype)
    want = run(session(proto.SerializeToString(), optimize="disabled"), {"x": x})
    model = ir.from_proto(proto)
    shapes.infer(model)
    turned = [node for node in model.graph if node.op_type == "Transpose"]
    saved = transposes.cancel(model.graph, turned)
    left = sum(node.op_type == "Transpose" for node in model.graph)
    assert left <= len(turned) - saved, "it says how many fewer there are"
    assert [value.name for value in model.graph.outputs] == [value.name for value in proto.graph.output]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    for got, expected in zip(run(session(model, optimize="disabled"), {"x": x}), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_an_output_keeps_the_names_of_its_sizes() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 21]> g (float[n,a,4] x) => (float[n,rows,4] y)
        { t = Transpose <perm = [0, 2, 1]> (x)  m = Tanh (t)  y = Transpose <perm = [0, 2, 1]> (m) }"""
    )
    shapes.infer(model)
    assert transposes.cancel(model.graph, [node for node in model.graph if node.op_type == "Transpose"]) == 2
    (y,) = model.graph.outputs
    assert y.shape == ir.Shape(["n", "rows", 4])
