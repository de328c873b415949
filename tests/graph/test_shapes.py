"""Shape inference: what it learns, what it forgets, and that weights take no part in it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from bct_onnx.graph import shapes


def parse() -> ir.Model:
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]> g (float[n,64] x) => (float[rows,64] y)
        { a = MatMul (x, w) b = com.microsoft.Inverse (a) y = Neg (b) }"""
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((64, 64), np.float32), "w"))
    return ir.from_proto(proto)


def values(model: ir.Model) -> dict[str | None, ir.Value]:
    return {value.name: value for node in model.graph for value in node.outputs}


def test_declared_outputs_and_names_stay() -> None:
    model = parse()
    shapes.infer(model)
    assert values(model)["a"].shape == ir.Shape(["n", 64])
    assert values(model)["y"].shape == ir.Shape(["rows", 64])


def test_behind_an_unknown_operator_the_type_is_kept_and_the_shape_forgotten() -> None:
    model = parse()
    unknown = values(model)["b"]
    unknown.type, unknown.shape = ir.TensorType(ir.DataType.FLOAT16), ir.Shape([3, 4])
    shapes.infer(model)
    assert unknown.dtype == ir.DataType.FLOAT16
    assert unknown.shape is None


def test_operators_of_onnxruntime_take_part_by_stand_ins() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>
        g (float16[n,s,24] x, int32[n,s] ids, float16[24,60] w, float16[9,24] table) => (float16[n,s,12] y) {
            a, mean, deviation, sum = com.microsoft.SkipLayerNormalization (x, x, x)
            b = com.microsoft.Attention <num_heads = 2, qkv_hidden_sizes = [24, 24, 12]> (a, w)
            c = com.microsoft.FusedMatMul <transB = 1> (x, sum)
            d = com.microsoft.GroupQueryAttention <num_heads = 2, kv_num_heads = 1> (x, , , , , ids, ids)
            e, lengths = com.microsoft.EmbedLayerNormalization (ids, , table, table, , x, x)
            f = com.microsoft.MultiHeadAttention <num_heads = 2> (x, x, b)
            y = Relu (f) }"""
    )
    shapes.infer(model)
    found = {name: (value.dtype.name, str(value.shape)) for name, value in values(model).items() if value.dtype}
    half, tokens = "FLOAT16", "[n,s,24]"
    assert found["a"] == found["sum"] == found["e"] == (half, tokens)
    assert found["b"] == found["f"] == (half, "[n,s,12]")
    assert found["c"] == (half, "[n,s,s]")
    assert found["d"] == (half, "[n,s,12]")  # two of four heads of 6
    assert found["lengths"] == ("INT32", "[n]")


def test_codes_of_onnxruntime_have_the_shapes_of_what_they_are_codes_of() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>
        g (float[n,s,24] x, float[n] scales, uint8[n] points, float one, int8[24,60] w, float[60] columns)
        => (float[n,s,60] y) {
            a = com.microsoft.QuantizeLinear <axis = 0> (x, scales, points)
            b = com.microsoft.DequantizeLinear <axis = 0> (a, scales, points)
            c = com.microsoft.QuantizeLinear (b, one)
            d = com.microsoft.MatMulIntegerToFloat (c, w, one, columns)
            y = Relu (d) }"""
    )
    shapes.infer(model)
    found = {name: (value.dtype.name, str(value.shape)) for name, value in values(model).items() if value.dtype}
    assert found["a"] == found["c"] == ("UINT8", "[n,s,24]")
    assert found["b"] == ("FLOAT", "[n,s,24]")
    assert found["d"] == ("FLOAT", "[n,s,60]")


def test_skeleton_holds_no_weights_and_the_model_keeps_them() -> None:
    model = parse()
    skeleton = shapes.skeleton(model)
    assert not skeleton.graph.initializer
    assert [info.name for info in skeleton.graph.input] == ["x", "w"]
    weight = model.graph.initializers["w"].const_value
    assert weight is not None and weight.numpy().sum() == 64 * 64
    assert [value.name for value in model.graph.inputs] == ["x"]


def test_a_type_is_found_where_following_data_fails() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 23]> g (bool c, int64[batch,1] x) => (int64[batch,k] y) {
            y = If (c) <then_branch = t () => (int64[batch,k] a) {
                            s = Shape (x) two = Constant <value_ints = [1, 3]> () m = Mul (s, two)
                            e = Expand (x, m) a = Neg (e) },
                        else_branch = e () => (int64[batch,k] b) { b = Neg (x) }>
        }"""
    )
    shapes.infer(model)
    assert all(value.type is not None for node in model.graph.all_nodes() for value in node.outputs)


def test_packed_codes_are_not_followed_one_by_one() -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 23]> g () => (float[32,256] y)
        { a = Cast <to = 1> (codes) b = Neg (a) y = Reshape (b, sizes) }"""
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(32 * 256, np.uint8), "codes"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([32, 256]), "sizes"))
    model = ir.from_proto(proto)
    (codes,) = [value for value in shapes.skeleton(model).graph.input if value.name == "codes"]
    assert not codes.type.tensor_type.shape.dim[0].HasField("dim_value")
    shapes.infer(model)
    assert values(model)["b"].dtype == ir.DataType.FLOAT
    assert values(model)["y"].shape == ir.Shape([32, 256])


def test_rows_of_a_table_of_codes_have_the_numbers_that_their_bytes_hold() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
        g (int64[n,s] ids, uint8[9,16] halves, uint8[9,32] whole, int4[9,32] codes, float16[9,1] scales)
        => (float16[n,s,32] y, float16[1,s,32] z) {
            first = Constant <value_ints = [0]> ()
            line = Gather (ids, first)
            d = com.microsoft.GatherBlockQuantized <quantize_axis = 1> (codes, line, scales)
            z = Relu (d)
            a = com.microsoft.GatherBlockQuantized <quantize_axis = 1> (halves, ids, scales)
            b = com.microsoft.GatherBlockQuantized <quantize_axis = 1, bits = 8> (whole, ids, scales)
            c = com.microsoft.GatherBlockQuantized <quantize_axis = 1> (codes, ids, scales)
            y = Sum (a, b, c) }"""
    )
    shapes.infer(model)
    rows = values(model)
    assert str(rows["d"].shape) == "[1,s,32]"
    assert [(rows[name].dtype, str(rows[name].shape)) for name in "abc"] == [(ir.DataType.FLOAT16, "[n,s,32]")] * 3


def test_a_size_below_zero_is_an_unknown_one() -> None:
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", -1, 3])]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)]
    nodes = [helper.make_node("Neg", ["x"], ["a"]), helper.make_node("Neg", ["a"], ["y"])]
    model = ir.from_proto(helper.make_model(helper.make_graph(nodes, "g", inputs, outputs)))
    shapes.infer(model)
    inferred = values(model)["a"].shape or ()
    assert [isinstance(size, int) for size in inferred] == [False, False, True]
    assert model.graph.inputs[0].shape is not None and model.graph.inputs[0].shape[1] == -1, (
        "what the file declares stays"
    )


def test_vectors_beyond_memory_are_not_followed_number_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX writes each of their numbers down, of floats and of values between nodes too: 2^31 took all memory."""
    text = """<ir_version: 10, opset_import: ["" : 23]> g (float[65536,32768] x) => (float[n] y) <float[1] a = {2}> {
        h = Reshape (x, flat)  l = Mul (h, a)  y = Neg (l) }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1]), "flat"))
    infer = onnx.shape_inference.infer_shapes

    def without_data(model: onnx.ModelProto, data_prop: bool = False) -> onnx.ModelProto:
        assert not data_prop, "this test would take all memory"
        return infer(model)

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", without_data)
    model = ir.from_proto(proto)
    shapes.infer(model)
    assert values(model)["l"].shape == ir.Shape([2**31])
