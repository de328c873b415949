"""Every kind of tensor is written as it is, and a model larger than the memory can be written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from bct_onnx.graph.load import load
from bct_onnx.graph.save import save
from tests.graph.handmade import model, peak_memory, write
from tests.versions import TWO_BITS

Session = Callable[..., ort.InferenceSession]


TWO_BIT_TYPES = [pytest.param(name, marks=TWO_BITS) for name in ("int2", "uint2")]


@pytest.mark.usefixtures("layout")
@pytest.mark.parametrize("dtype", ["int8", "int4", "uint4", *TWO_BIT_TYPES, "float16", "bfloat16", "float8_e4m3fn"])
def test_element_types_survive(tmp_path: Path, dtype: str, ort_session: Session) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    limit = {"int2": (-2, 2), "uint2": (0, 4), "int4": (-8, 8), "uint4": (0, 16)}.get(dtype, (-100, 100))
    values = np.random.default_rng(0).integers(*limit, (3, 5)).astype(kind)
    head = (
        '<ir_version: 13, opset_import: ["" : 25]>' if "int2" in dtype else '<ir_version: 10, opset_import: ["" : 23]>'
    )
    text = head + "g () => (float[3, 5] y) { y = Cast <to = 1> (w) }"
    loaded = ir.from_onnx_text(text.replace("w)", "c)").replace("{ y", "{ c = Constant <value = float {0}> () y"))
    value = ir.Value(name="w", const_value=ir.Tensor(values, name="w"))
    loaded.graph.initializers.add(value)
    loaded.graph.node(1).replace_input_with(0, value)
    loaded.graph.remove(loaded.graph.node(0), safe=True)
    written, *_ = save(loaded, tmp_path / "out.onnx")
    onnx.checker.check_model(str(written))
    tensor = onnx.load(written).graph.initializer[0]
    assert len(tensor.raw_data) == -(-15 * ir.DataType.from_numpy(kind).bitwidth // 8)
    assert np.array_equal(numpy_helper.to_array(tensor), values)
    again = load(written).graph.initializers["w"].const_value
    assert again is not None
    assert np.array_equal(again.numpy(), values)
    assert np.array_equal(ort_session(written).run(None, {})[0], values.astype(np.float32))


def test_values_stored_as_varints_become_raw(tmp_path: Path) -> None:
    proto = model()
    del proto.graph.initializer[:]
    proto.graph.initializer.append(
        helper.make_tensor("w", onnx.TensorProto.FLOAT, [4, 2], [float(i) for i in range(8)])
    )
    negative = helper.make_tensor("n", onnx.TensorProto.INT8, [3], [-1, -2, -3])
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["n"], value=negative))
    assert not proto.graph.initializer[0].raw_data
    save(load(write(proto, tmp_path / "in.onnx")), tmp_path / "out.onnx")
    written = onnx.load(tmp_path / "out.onnx").graph
    assert written.initializer[0].raw_data == np.arange(8, dtype=np.float32).tobytes()
    assert written.node[0].attribute[0].t.raw_data == b"\xff\xfe\xfd"
    assert not written.node[0].attribute[0].t.int32_data


def test_string_tensors(tmp_path: Path) -> None:
    text = '<ir_version: 10, opset_import: ["" : 21]> g (int64[1] i) => (string[1] y) { y = Gather (s, i) }'
    source = write(model(text, s=np.array(["a", "b"], object)), tmp_path / "in.onnx")
    save(load(source), tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx").graph.initializer[0].string_data == [b"a", b"b"]


def test_a_big_constant_in_a_function(tmp_path: Path, ort_session: Session) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
        g (float[400000] x) => (float[400000] y) { y = local.f (x) }
        <domain: "local", opset_import: ["" : 21]> f (a) => (b) { b = Neg (a) }"""
    proto = model(text)
    data = numpy_helper.from_array(np.arange(400_000, dtype=np.float32))
    body = proto.functions[0].node
    body[0].CopyFrom(helper.make_node("Add", ["a", "c"], ["b"]))
    body.insert(0, helper.make_node("Constant", [], ["c"], value=data))
    written, *_ = save(load(write(proto, tmp_path / "in.onnx")), tmp_path / "out.onnx")
    result = ort_session(written).run(None, {"x": np.zeros(400_000, np.float32)})[0]
    assert np.array_equal(result, np.arange(400_000))


LAZY = """
import numpy as np
import onnx_ir as ir
from bct_onnx.graph import save
save.EMBEDDED = int(sys.argv[2])
COUNT, SIZE = 24, 1 << 20
node = [f"float[{SIZE}] w{i}" for i in range(COUNT)]
text = '<ir_version: 10, opset_import: ["" : 21]> g (' + ", ".join(node) + f") => (float[{SIZE}] y) {{ y = Sum ("
model = ir.from_onnx_text(text + ", ".join(f"w{i}" for i in range(COUNT)) + ") }")
for value in list(model.graph.inputs):
    shape = ir.Shape([SIZE])
    ones = lambda: ir.tensor(np.ones(SIZE, np.float32))
    value.const_value = ir.LazyTensor(ones, dtype=ir.DataType.FLOAT, shape=shape)
    model.graph.initializers.add(value)
model.graph.inputs.clear()
# measured
save.save(model, sys.argv[1])
"""


@pytest.mark.parametrize("embedded", [0, 1 << 30])
@pytest.mark.whole
def test_memory_stays_flat(tmp_path: Path, embedded: int) -> None:
    before, after = peak_memory(LAZY, tmp_path / "out.onnx", embedded)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) > 24 << 22
    assert after - before < 30  # MiB; the weights have 96
