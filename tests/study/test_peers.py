from pathlib import Path

import numpy as np
import onnx
import pytest

from bct_onnx.runtime.feeds import random_feeds
from bct_onnx.runtime.session import run, session
from bct_onnx.study.peers import TOOLS, Tool, make


def linear(path: Path, columns: int = 64) -> Path:
    """A table lookup and a matrix large enough for every tool, with a stale shape annotation."""
    rng = np.random.default_rng(0)
    text = f"""<ir_version: 9, opset_import: ["" : 18]>
    g (int64[b, s] input_ids) => (float[b, s, {columns}] y) {{ x = Gather (table, input_ids) y = MatMul (x, w) }}"""
    model = onnx.parser.parse_model(text)
    for name, shape in {"table": (100, 64), "w": (64, columns)}.items():
        array = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("x", 1, [7, 7, 7]))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(("name", "operator"), [("ort-dynamic", "MatMul"), ("ort-nbits4", "MatMulNBits")])
def test_tools_make_a_smaller_model_that_runs(tmp_path: Path, name: str, operator: str) -> None:
    path = linear(tmp_path / "model.onnx")
    feeds = random_feeds(session(path), batch=2, sequence=8)
    made = make(TOOLS[name], path, tmp_path, feeds)
    assert made.file is not None and made.error == "" and made.text in TOOLS[name].settings
    assert any(node.op_type.startswith(operator) for node in onnx.load(made.file).graph.node)
    assert made.file.stat().st_size < path.stat().st_size / 2
    reference, result = run(session(path), feeds)[0], run(session(made.file), feeds)[0]
    assert np.corrcoef(reference.ravel(), result.ravel())[0, 1] > 0.98


def test_the_first_setting_that_works_is_kept(tmp_path: Path) -> None:
    path = linear(tmp_path / "model.onnx")
    made = make(TOOLS["ort-nbits4"], path, tmp_path, random_feeds(session(path)))
    assert made.text == "4 bit block 32, embeddings too"


def test_failure_is_a_result(tmp_path: Path) -> None:
    def broken(model: onnx.ModelProto, path: Path, samples: object) -> None:
        raise KeyError("no idea\nwhat happened")

    path = linear(tmp_path / "model.onnx")
    made = make(Tool("broken", {"as is": broken}, (), "first"), path, tmp_path, {})
    assert made.file is None and "no idea" in made.error and "\n" not in made.error


def test_nothing_quantized_is_a_failure(tmp_path: Path) -> None:
    def copy(model: onnx.ModelProto, path: Path, samples: object) -> None:
        onnx.save(model, path)

    path = linear(tmp_path / "model.onnx")
    made = make(Tool("copy", {"as is": copy}, ("MatMulNBits",), "fastest"), path, tmp_path, random_feeds(session(path)))
    assert made.file is None and "quantized nothing" in made.error


def test_standard_attention_is_left_to_the_runtime(tmp_path: Path) -> None:
    path = linear(tmp_path / "model.onnx")
    model = onnx.load(path)
    model.opset_import[0].version = 23
    model.ir_version = 11
    model.graph.node[-1].output[0] = "z"
    model.graph.node.append(onnx.helper.make_node("Attention", "zzz", ["y"], q_num_heads=2, kv_num_heads=2))
    onnx.save(model, path)
    made = make(TOOLS["ort-dynamic"], path, tmp_path, random_feeds(session(path)))
    assert made.file is not None, made.error
    assert [node.domain for node in onnx.load(made.file).graph.node if "Attention" in node.op_type] == [""]


def test_a_gemm_is_quantized_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    text = """<ir_version: 9, opset_import: ["" : 18]>
    g (float[rows, 64] x) => (float[rows, 64] y) { h = Gemm <transB = 1> (x, w, b) y = Gemm (h, w) }"""
    model = onnx.parser.parse_model(text)
    for name, shape in {"w": (64, 64), "b": (64,)}.items():
        array = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, tmp_path / "model.onnx")
    feeds = {"x": rng.standard_normal((4, 64)).astype(np.float32)}
    made = make(TOOLS["ort-nbits4"], tmp_path / "model.onnx", tmp_path, feeds)
    assert made.file is not None, made.error
    operators = [node.op_type for node in onnx.load(made.file).graph.node]
    assert operators == ["MatMulNBits", "Add", "MatMulNBits"]
    reference, result = run(session(tmp_path / "model.onnx"), feeds)[0], run(session(made.file), feeds)[0]
    assert np.corrcoef(reference.ravel(), result.ravel())[0, 1] > 0.98
