"""What is written: all that the graph holds, in the same bytes every time, and nothing it does not need."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from bct_onnx.graph.load import files, load
from bct_onnx.graph.save import embedded, predicted_size, save
from tests.graph.handmade import MATMUL, external, model, weights, write

Hashes = Callable[..., dict[Path, str]]
Session = Callable[..., ort.InferenceSession]

RICH = """<ir_version: 10, opset_import: ["" : 21, "local" : 1], producer_name: "maker", producer_version: "1.2",
           domain: "com.example", model_version: 7, doc_string: "what it is", metadata_props: ["b": "2", "a": "1"]>
    rich (float[batch, 4] x, bool c) => (float[batch, "2*k"] y, float[batch, 4] t)
        <float[4, 4] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}, float[batch, 4] r> {
        r = local.twice <times = 2.0> (x)
        h = MatMul (r, w)
        y = If (c) <then_branch = one () => (float[n, m] a) { a = Relu (h) },
                    else_branch = two () => (float[n, m] a) { k = Constant <value = float[2] {3, 4}> () s = Relu (k)
                                                              a = Add (h, h) }>
        t = Identity (x)
    }
    <domain: "local", opset_import: ["" : 21]> twice <times> (a) => (b) {
        two = Constant <value_float: float = @times> () b = Mul (a, two)
    }"""


@pytest.mark.usefixtures("layout")
def test_everything_is_kept(tmp_path: Path) -> None:
    source = model(RICH)
    source.graph.doc_string = "graph doc"
    source.graph.node[1].doc_string = "node doc"
    source.graph.node[1].metadata_props.add(key="made by", value="hand")
    source.graph.input[0].doc_string = "input doc"
    source.graph.value_info[0].metadata_props.add(key="k", value="v")
    for info in list(source.graph.value_info):
        if info.name == "w":  # repeats the initializer's own type
            source.graph.value_info.remove(info)
    path = write(source, tmp_path / "in.onnx")
    save(load(path), tmp_path / "out.onnx")
    written = onnx.load(tmp_path / "out.onnx")  # external data read back in
    for proto in (source, written):
        proto.metadata_props.sort(key=lambda entry: entry.key)
    for tensor in (source.graph.initializer[0], source.graph.node[2].attribute[1].g.node[0].attribute[0].t):
        data = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(data, tensor.name))
    assert text(written) == text(source)


def text(proto: onnx.ModelProto) -> str:
    """Without fields that hold their default."""
    return re.sub(r' *((domain|name): ""|data_location: DEFAULT)\n', "", str(proto))


@pytest.mark.usefixtures("layout")
def test_input_is_untouched_and_bytes_repeat(tmp_path: Path, hashes: Hashes) -> None:
    source = external(tmp_path / "in.onnx")
    before = hashes(*files(source))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = save(load(source), tmp_path / "a" / "m.onnx")
    second = save(load(source), tmp_path / "b" / "m.onnx")
    assert [path.name for path in first] == [path.name for path in second]
    assert list(hashes(*first).values()) == list(hashes(*second).values())
    assert hashes(*files(source)) == before


@pytest.mark.usefixtures("layout")
def test_the_model_in_memory_is_untouched(tmp_path: Path) -> None:
    loaded = load(write(model(RICH), tmp_path / "in.onnx"))
    before = [(value, value.const_value) for graph in loaded.graphs() for value in graph.initializers.values()]
    text = str(loaded)
    save(loaded, tmp_path / "out.onnx")
    assert [(value, value.const_value) for value, _ in before] == before
    assert str(loaded) == text
    assert isinstance(before[0][1], ir.TensorProtocol)


@pytest.mark.usefixtures("layout")
def test_runs_the_same(tmp_path: Path, ort_session: Session) -> None:
    source = write(model(RICH), tmp_path / "in.onnx")
    written, *_ = save(load(source), tmp_path / "out.onnx")
    onnx.checker.check_model(str(written), full_check=True)
    for c in (True, False):
        feeds = {"x": np.random.default_rng(0).standard_normal((3, 4), dtype=np.float32), "c": np.array(c)}
        old, new = (ort_session(path).run(None, feeds) for path in (source, written))
        assert all(np.array_equal(a, b) for a, b in zip(old, new, strict=True))


UNUSED = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[2] x, bool c) => (float[2] y, float[2] shown) <float[2] shown = {1, 2}, float[2] dead = {1, 2},
       float[2] inner = {3, 4}, float[2] cond_dead = {5, 6}> {
        y = If (c) <then_branch = one () => (float[2] a) { a = Add (x, inner) },
                    else_branch = two () => (float[2] a) { a = Relu (x) }>
    }"""


def test_unused_initializers_are_left_out(tmp_path: Path) -> None:
    proto = model(UNUSED)
    branch = proto.graph.node[0].attribute[1].g
    branch.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "branch_dead"))
    save(load(write(proto, tmp_path / "in.onnx")), tmp_path / "out.onnx")
    written = onnx.load(tmp_path / "out.onnx")
    assert [tensor.name for tensor in written.graph.initializer] == ["shown", "inner"]
    assert not written.graph.node[0].attribute[1].g.initializer
    assert not written.graph.value_info


def test_an_input_with_a_default_keeps_it(tmp_path: Path) -> None:
    proto = model()
    proto.graph.input.append(helper.make_tensor_value_info("d", onnx.TensorProto.FLOAT, [1]))
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "d"))
    save(load(write(proto, tmp_path / "in.onnx")), tmp_path / "out.onnx")
    written = onnx.load(tmp_path / "out.onnx").graph
    assert [info.name for info in written.input] == ["x", "d"]
    assert [tensor.name for tensor in written.initializer] == ["w", "d"]


def test_ir_version_rises_with_the_opset(tmp_path: Path) -> None:
    loaded = load(
        write(
            model(MATMUL.replace("ir_version: 10", "ir_version: 8").replace("21", "17"), w=np.ones((4, 2), np.float32)),
            tmp_path / "i.onnx",
        )
    )
    save(loaded, tmp_path / "same.onnx")
    assert onnx.load(tmp_path / "same.onnx").ir_version == 8
    loaded.graph.opset_imports[""] = 25
    save(loaded, tmp_path / "raised.onnx")
    onnx.checker.check_model(str(tmp_path / "raised.onnx"))
    assert onnx.load(tmp_path / "raised.onnx").ir_version >= 12


def test_a_model_in_one_message(tmp_path: Path) -> None:
    loaded = load(write(weights(rows=300_000), tmp_path / "in.onnx"))
    save(loaded, tmp_path / "out.onnx")
    assert text(embedded(loaded)) == text(onnx.load(tmp_path / "out.onnx"))


@pytest.mark.usefixtures("layout")
@pytest.mark.parametrize("rows", [4, 1000, 100_000])
def test_the_size_is_known_before(tmp_path: Path, rows: int) -> None:
    loaded = load(write(weights(rows=rows), tmp_path / "in.onnx"))
    expected = predicted_size(loaded)
    written = save(loaded, tmp_path / "out.onnx")
    assert abs(sum(path.stat().st_size for path in written) - expected) < 100


@pytest.mark.usefixtures("layout")
def test_progress_reaches_the_total(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    loaded = load(write(weights(rows=400_000), tmp_path / "in.onnx"))
    save(loaded, tmp_path / "out.onnx", progress=lambda done, total: seen.append((done, total)))
    done = [figure for figure, _ in seen]
    assert done == sorted(done)
    assert len(done) > 2
    assert seen[-1] == (3_200_000, 3_200_000)
    assert {total for _, total in seen} == {3_200_000}
