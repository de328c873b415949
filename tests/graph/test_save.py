"""A model is written whole or not at all, with the same bytes every time, and holds what the graph holds."""

from __future__ import annotations

import hashlib
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from bct_onnx.errors import BctError, InputModelError, OutputError, UsageError
from bct_onnx.graph import save as module
from bct_onnx.graph.load import files, load
from bct_onnx.graph.save import check_writable, embedded, predicted_size, save
from tests.graph.handmade import MATMUL, external, model, peak_memory, write

Array = np.ndarray[Any, np.dtype[Any]]
Session = Callable[..., ort.InferenceSession]


@pytest.fixture
def split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write weights to a data file whatever their size."""
    monkeypatch.setattr(module, "EMBEDDED", 0)


@pytest.fixture(params=["one file", "data file"])
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "data file":
        monkeypatch.setattr(module, "EMBEDDED", 0)
        monkeypatch.setattr(module, "KEPT_INSIDE", 0)


def hashes(*paths: Path) -> dict[Path, str]:
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def weights(seed: int = 0, rows: int = 1000) -> onnx.ModelProto:
    """The MatMul model with a random weight of 8 * rows bytes."""
    data = np.random.default_rng(seed).standard_normal((rows, 2), dtype=np.float32)
    return model(MATMUL.replace("batch, 4", f"batch, {rows}"), w=data)


# What is written

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
def test_input_is_untouched_and_bytes_repeat(tmp_path: Path) -> None:
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


@pytest.mark.usefixtures("layout")
@pytest.mark.parametrize("dtype", ["int8", "int4", "uint4", "int2", "uint2", "float16", "bfloat16", "float8_e4m3fn"])
def test_element_types_survive(tmp_path: Path, dtype: str, ort_session: Session) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    limit = {"int2": (-2, 2), "uint2": (0, 4), "int4": (-8, 8), "uint4": (0, 16)}.get(dtype, (-100, 100))
    values = np.random.default_rng(0).integers(*limit, (3, 5)).astype(kind)
    text = """<ir_version: 13, opset_import: ["" : 25]> g () => (float[3, 5] y) { y = Cast <to = 1> (w) }"""
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


# The data file


@pytest.mark.usefixtures("split")
def test_one_data_file_named_by_its_content(tmp_path: Path, ort_session: Session) -> None:
    proto = weights()
    add = numpy_helper.from_array(np.ones((50, 50), np.float32), "unaligned")
    proto.graph.initializer.extend([numpy_helper.from_array(np.array([1.0, 2.0], np.float32), "small"), add])
    proto.graph.node.append(helper.make_node("Add", ["y", "small"], ["z"]))
    proto.graph.node.append(helper.make_node("ReduceSum", ["unaligned"], ["s"]))
    proto.graph.node.append(helper.make_node("Add", ["z", "s"], ["q"]))
    proto.graph.output[0].name = "q"
    source = write(proto, tmp_path / "in.onnx")
    path, data = save(load(source), tmp_path / "out.onnx")
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    assert data.name == f"out.onnx.{digest[:8]}.data"
    assert names(tmp_path) == {"in.onnx", "out.onnx", data.name}
    tensors = {t.name: t for t in onnx.load(path, load_external_data=False).graph.initializer}
    assert len(tensors["small"].raw_data) == 8
    for name in ("w", "unaligned"):
        entries = {entry.key: entry.value for entry in tensors[name].external_data}
        assert entries["location"] == data.name
        assert int(entries["offset"]) % 4096 == 0
    onnx.checker.check_model(str(path))
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 1000), dtype=np.float32)}
    assert np.array_equal(ort_session(source).run(None, feeds)[0], ort_session(path).run(None, feeds)[0])


@pytest.mark.usefixtures("split")
def test_force_leaves_one_pair_and_no_old_data(tmp_path: Path) -> None:
    first, second = (load(write(weights(seed), tmp_path / f"{seed}.onnx")) for seed in (1, 2))
    _, old = save(first, tmp_path / "out.onnx")
    _, new = save(second, tmp_path / "out.onnx", force=True)
    assert names(tmp_path) == {"1.onnx", "2.onnx", "out.onnx", new.name}
    assert files(tmp_path / "out.onnx") == (tmp_path / "out.onnx", new)
    assert old != new
    assert save(second, tmp_path / "out.onnx", force=True)[1] == new
    assert files(tmp_path / "out.onnx")[1] == new


def test_force_from_two_files_to_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(write(weights(), tmp_path / "in.onnx"))
    with monkeypatch.context() as context:
        context.setattr(module, "EMBEDDED", 0)
        save(loaded, tmp_path / "out.onnx")
    save(loaded, tmp_path / "out.onnx", force=True)
    assert names(tmp_path) == {"in.onnx", "out.onnx"}


@pytest.mark.usefixtures("split")
def test_data_of_other_models_stay(tmp_path: Path) -> None:
    first, second = (load(write(weights(seed), tmp_path / f"{seed}.onnx")) for seed in (1, 2))
    path, data = save(first, tmp_path / "out.onnx")
    path.rename(tmp_path / "kept.onnx")
    save(second, tmp_path / "out.onnx")
    save(first, tmp_path / "out.onnx", force=True)
    assert files(tmp_path / "kept.onnx")[1] == data
    foreign = external(tmp_path / "other.onnx", "weights.bin")
    save(second, foreign, force=True)
    assert (tmp_path / "weights.bin").exists()


# Refusals


def test_existing_output(tmp_path: Path) -> None:
    loaded = load(write(model(), tmp_path / "in.onnx"))
    (tmp_path / "out.onnx").write_text("precious")
    with pytest.raises(UsageError, match="exists"):
        save(loaded, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_text() == "precious"
    save(loaded, tmp_path / "out.onnx", force=True)
    assert load(tmp_path / "out.onnx").graph


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("target", ["in.onnx", "w.bin", "link.onnx", "hard.onnx", "sub/../in.onnx"])
def test_inputs_are_never_replaced(tmp_path: Path, target: str, force: bool) -> None:
    source = external(tmp_path / "in.onnx")
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.onnx").symlink_to(source)
    (tmp_path / "hard.onnx").hardlink_to(source)
    before = hashes(*files(source))
    with pytest.raises(UsageError, match="input"):
        check_writable(tmp_path / target, force=force, inputs=files(source))
    assert hashes(*files(source)) == before


def test_save_itself_protects_the_files_it_reads(tmp_path: Path) -> None:
    source = external(tmp_path / "in.onnx")
    loaded = load(source)
    with pytest.raises(UsageError, match="input"):
        save(loaded, tmp_path / "w.bin", force=True)
    big = write(weights(rows=200_000), tmp_path / "big.onnx")
    with pytest.raises(UsageError, match="input"):
        save(load(big), big, force=True)


@pytest.mark.usefixtures("split")
def test_the_data_of_a_replaced_model_may_be_an_input(tmp_path: Path) -> None:
    loaded = load(write(weights(), tmp_path / "in.onnx"))
    path, data = save(loaded, tmp_path / "out.onnx")
    (tmp_path / "same.onnx").write_bytes(path.read_bytes())  # shares the data file
    with pytest.raises(UsageError, match="input"):
        check_writable(path, force=True, inputs=files(tmp_path / "same.onnx"))
    with pytest.raises(UsageError, match="input"):
        save(load(tmp_path / "same.onnx"), path, force=True)
    assert data.exists()


def test_places_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="does not exist") as caught:
        check_writable(tmp_path / "no" / "out.onnx")
    assert "mkdir" in caught.value.fix
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="does not exist"):
        check_writable(tmp_path / "file" / "out.onnx")
    with pytest.raises(UsageError, match="not a file"):
        check_writable(tmp_path, force=True)
    with pytest.raises(UsageError, match="cannot be written there"):
        check_writable(tmp_path / ("n" * 300))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UsageError, match="not writable"):
        check_writable(tmp_path / "out.onnx")
    assert names(tmp_path) == {"file"}


# Failures: nothing is left behind, and what was there stays


@pytest.fixture(params=["new", "replacing"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An output path, free or taken by a model with a data file; afterwards nothing may have changed."""
    folder = tmp_path / "outputs"
    folder.mkdir()
    if request.param == "replacing":
        with monkeypatch.context() as context:
            context.setattr(module, "EMBEDDED", 0)
            save(load(write(weights(99), tmp_path / "old.onnx")), folder / "out.onnx")
    before = hashes(*folder.iterdir())
    yield folder / "out.onnx"
    monkeypatch.undo()
    assert hashes(*folder.iterdir()) == before


@pytest.mark.usefixtures("layout")
@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, ZeroDivisionError])
def test_interrupted(tmp_path: Path, place: Path, interruption: type[BaseException]) -> None:
    def stop(done: int, total: int) -> None:
        if done > 0:
            raise interruption

    with pytest.raises(interruption):
        save(load(write(weights(), tmp_path / "in.onnx")), place, force=True, progress=stop)


@pytest.mark.usefixtures("layout")
def test_disk_full_while_writing(tmp_path: Path, place: Path) -> None:
    loaded = load(write(weights(rows=500_000), tmp_path / "in.onnx"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(OutputError, match="disk is full") as caught:
            save(loaded, place, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.exit_code == 5
    assert "4,000,000 bytes" in caught.value.why
    assert "nothing was left behind" in caught.value.why


def test_disk_full_is_seen_before_writing(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(write(weights(), tmp_path / "in.onnx"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=7999))
    with pytest.raises(OutputError, match="disk is full"):
        save(loaded, place, force=True, progress=lambda done, total: pytest.fail("wrote"))


@pytest.mark.usefixtures("layout")
@pytest.mark.parametrize("call", ["fsync", "replace model"])
def test_the_last_steps_fail(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    loaded = load(write(weights(), tmp_path / "in.onnx"))
    replace = Path.replace

    def fail(*_: object) -> NoReturn:
        raise OSError(5, "Input/output error")

    def fail_on_model(path: Path, target: Path) -> Path:
        return replace(path, target) if target != place else fail()

    if call == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail_on_model)
    with pytest.raises(OutputError, match="could not be written") as caught:
        save(loaded, place, force=True)
    assert "Input/output error" in caught.value.why


@pytest.mark.usefixtures("layout")
def test_validation_refuses(tmp_path: Path, place: Path) -> None:
    seen = []

    def refuse(path: Path) -> None:
        seen.append(load(path).graph.initializers["w"].const_value)
        raise ZeroDivisionError

    loaded = load(write(weights(), tmp_path / "in.onnx"))
    with pytest.raises(ZeroDivisionError):
        save(loaded, place, force=True, validate=refuse)
    assert seen


@pytest.mark.usefixtures("layout")
def test_validation_accepts(tmp_path: Path) -> None:
    outputs: list[str] = []
    loaded = load(write(weights(), tmp_path / "in.onnx"))
    save(
        loaded,
        tmp_path / "out.onnx",
        validate=lambda path: outputs.extend(o.name for o in load(path).graph.outputs if o.name),
    )
    assert outputs == ["y"]
    assert load(tmp_path / "out.onnx").graph


@pytest.mark.usefixtures("layout")
def test_the_input_vanishes(tmp_path: Path, place: Path) -> None:
    loaded = load(external(tmp_path / "in.onnx"))
    (tmp_path / "w.bin").unlink()
    with pytest.raises(InputModelError, match="could not be read") as caught:
        save(loaded, place, force=True)
    assert "w.bin" in caught.value.where


def test_a_tensor_that_lies_about_its_size(tmp_path: Path, place: Path) -> None:
    loaded = load(write(weights(), tmp_path / "in.onnx"))
    shape = ir.Shape([1000, 2])
    loaded.graph.initializers["w"].const_value = ir.LazyTensor(
        lambda: ir.tensor(np.zeros(3, np.float32)), dtype=ir.DataType.FLOAT, shape=shape
    )
    with pytest.raises(ValueError, match="12 bytes of data, 8000"):
        save(loaded, place, force=True)


# Properties


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


@pytest.mark.usefixtures("split")
def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    (tmp_path / "normal").touch()
    written = save(load(write(weights(), tmp_path / "in.onnx")), tmp_path / "out.onnx")
    assert {path.stat().st_mode for path in written} == {(tmp_path / "normal").stat().st_mode}


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
def test_memory_stays_flat(tmp_path: Path, embedded: int) -> None:
    before, after = peak_memory(LAZY, tmp_path / "out.onnx", embedded)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) > 24 << 22
    assert after - before < 30  # MiB; the weights have 96


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


def test_messages_are_complete(tmp_path: Path) -> None:
    (tmp_path / "out.onnx").touch()
    for attempt in (tmp_path / "out.onnx", tmp_path / "no" / "out.onnx"):
        with pytest.raises(BctError) as caught:
            check_writable(attempt)
        assert re.search(r"where: .*\n.*what to do: ", str(caught.value))
