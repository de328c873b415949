"""What `load` makes of good models, and how it refuses bad ones."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from bct_onnx.errors import InputModelError
from bct_onnx.graph.load import files, load, size
from tests.graph.handmade import MATMUL, external, model, peak_memory, refer, write

Damage = Callable[[onnx.ModelProto], object]


def refusal(path: Path | str) -> InputModelError:
    with pytest.raises(InputModelError) as caught:
        load(path)
    error = caught.value
    assert error.exit_code == 3
    assert all(part for part in (error.what, error.where, error.fix)), error
    assert str(Path(path).absolute()) in error.where
    return error


# Files


def test_missing_directory_empty(tmp_path: Path) -> None:
    assert "found" in refusal(tmp_path / "no.onnx").what
    assert "regular" in refusal(tmp_path).what
    (tmp_path / "empty.onnx").touch()
    assert "empty" in refusal(tmp_path / "empty.onnx").what


def test_names_no_file_can_have(tmp_path: Path) -> None:
    assert "found" in refusal(tmp_path / "a\0b.onnx").what
    assert "found" in refusal(tmp_path / ("n" * 300)).what


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    assert "regular" in refusal(tmp_path / "pipe.onnx").what


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 90000000\n", "git lfs pull"),
        (b"\x1c\0\0\0ORTM" + bytes(60), ".ort"),
        (b"<!DOCTYPE html><html>not found</html>", "web page"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(200)), "not an ONNX model"),
        (b"hello", "not an ONNX model"),
        (bytes(4096), "not an ONNX model"),
        (b"\xff" * 64, "not an ONNX model"),
        (b"\x08\x0a", "no graph"),
        (model().SerializeToString().replace(b"MatMul", b"Mat\xfful"), "not text"),
    ],
)
def test_other_contents(tmp_path: Path, content: bytes, hint: str) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    assert hint in str(refusal(tmp_path / "m.onnx"))


def test_cut_anywhere(tmp_path: Path) -> None:
    whole = model().SerializeToString()
    path = tmp_path / "m.onnx"
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        refusal(path)


def test_cut_in_a_big_tensor(tmp_path: Path) -> None:
    path = write(model(MATMUL.replace("4", "1000000"), w=np.zeros((1_000_000, 2), np.float32)), tmp_path / "m.onnx")
    with path.open("r+b") as file:
        file.truncate(5_000_000)
    assert "cut off" in refusal(path).why


@pytest.mark.parametrize("seed", range(4))
def test_damaged_bytes_never_crash(tmp_path: Path, seed: int) -> None:
    """A few bytes changed, removed or added: the model still loads, or is refused; no other error."""
    random = np.random.default_rng(seed)
    text = (MATMUL, BRANCHES, FUNCTION, MATMUL)[seed]
    whole = external(tmp_path / "e.onnx").read_bytes() if seed == 3 else model(text).SerializeToString()
    path, loaded = tmp_path / "m.onnx", 0
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(random.integers(1, 4)):
            start = int(random.integers(len(damaged)))
            damaged[start : start + int(random.integers(3))] = random.bytes(int(random.integers(3)))
        path.write_bytes(damaged or b"?")
        try:
            load(path)
            loaded += 1
        except InputModelError:
            pass
    assert 0 < loaded < 300


# Operator sets, versions


def set_imports(*versions: tuple[str, int]) -> Damage:
    def damage(proto: onnx.ModelProto) -> None:
        del proto.opset_import[:]
        proto.opset_import.extend(helper.make_opsetid(*version) for version in versions)

    return damage


def set_ir_version(version: int) -> Damage:
    return lambda proto: setattr(proto, "ir_version", version)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (set_imports(), "does not state"),
        (set_imports(("", 0)), "does not state"),
        (set_imports(("com.example", 1)), "does not state"),
        (set_imports(("", 999)), "too new"),
        (set_imports(("", 17), ("ai.onnx", 18)), "contradict"),
        (set_ir_version(2), "too old"),
        (set_ir_version(999), "too new"),
        (lambda proto: proto.ClearField("ir_version"), "too old"),
    ],
)
def test_versions(tmp_path: Path, damage: Damage, what: str) -> None:
    proto = model()
    damage(proto)
    assert what in refusal(write(proto, tmp_path / "m.onnx")).what


def test_unknown_domain_is_fine_if_imported(tmp_path: Path) -> None:
    text = MATMUL.replace('"" : 21', '"" : 21, "com.example" : 7').replace("MatMul", "com.example.Anything")
    assert load(write(model(text, w=np.ones(1)), tmp_path / "m.onnx")).graph[0].domain == "com.example"
    unknown = write(model(text.replace(', "com.example" : 7', ""), w=np.ones(1)), tmp_path / "n.onnx")
    assert "com.example" in refusal(unknown).why


def test_default_domain_by_its_long_name(tmp_path: Path) -> None:
    proto = model()
    proto.opset_import[0].domain = proto.graph.node[0].domain = "ai.onnx"
    loaded = load(write(proto, tmp_path / "m.onnx"))
    assert loaded.opset_imports == {"": 21}
    assert loaded.graph[0].domain == ""


def test_ir_version_3_initializers_are_no_inputs(tmp_path: Path) -> None:
    proto = model()
    proto.ir_version = 3
    proto.graph.input.append(helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 2]))
    loaded = load(write(proto, tmp_path / "m.onnx"))
    assert [value.name for value in loaded.graph.inputs] == ["x"]
    assert loaded.ir_version == 4
    proto.ir_version = 10
    assert [value.name for value in load(write(proto, tmp_path / "n.onnx")).graph.inputs] == ["x", "w"]


# Names


def add_node(op_type: str, inputs: list[str], outputs: list[str]) -> Damage:
    return lambda proto: proto.graph.node.append(helper.make_node(op_type, inputs, outputs))


def add_input(name: str) -> Damage:
    return lambda proto: proto.graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]))


def add_output(name: str) -> Damage:
    return lambda proto: proto.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]))


def add_initializer(name: str) -> Damage:
    return lambda proto: proto.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), name))


def clear(field: str) -> Damage:
    return lambda proto: proto.graph.ClearField(field)


@pytest.mark.parametrize(
    ("damages", "what"),
    [
        ([clear("node")], "no nodes"),
        ([clear("output")], "no outputs"),
        ([clear("initializer")], "nothing produces the value 'w'"),
        ([add_node("Relu", ["nowhere"], ["z"])], "nothing produces the value 'nowhere'"),
        ([add_node("Relu", ["x"], ["y"])], "'y' is produced twice"),
        ([add_node("Split", ["x"], ["z", "z"])], "'z' is produced twice"),
        ([add_node("Relu", ["x"], ["w"])], "'w' is produced twice"),
        ([add_node("Relu", ["y"], ["x"])], "'x' is produced twice"),
        ([add_initializer("w")], "'w' is the name of two initializers"),
        ([add_initializer("")], "no name"),
        ([add_input("x")], "'x' is listed twice among the graph's inputs"),
        ([add_output("y")], "'y' is listed twice among the graph's outputs"),
        ([add_output("nowhere")], "nothing produces the output 'nowhere'"),
        ([add_node("Add", ["x", "b"], ["a"]), add_node("Add", ["x", "a"], ["b"])], "cycle"),
        ([add_node("Add", ["x", "a"], ["a"])], "cycle"),
        ([lambda proto: proto.graph.sparse_initializer.add()], "sparse"),
        ([lambda proto: proto.graph.node[0].attribute.add(name="a")], "an attribute has no value"),
        ([lambda proto: proto.graph.node[0].attribute.add(name="a", type=4)], "an attribute has no value"),
        ([lambda proto: proto.graph.node[0].attribute.add(name="a", type=5)], "an attribute has no value"),
        ([lambda proto: proto.graph.input[0].type.map_type.SetInParent()], "cannot be read"),
    ],
)
def test_names(tmp_path: Path, damages: list[Damage], what: str) -> None:
    proto = model()
    for damage in damages:
        damage(proto)
    assert what in refusal(write(proto, tmp_path / "m.onnx")).what


def test_outputs_may_be_inputs_or_initializers(tmp_path: Path) -> None:
    proto = model()
    add_output("x")(proto)
    add_output("w")(proto)
    assert [value.name for value in load(write(proto, tmp_path / "m.onnx")).graph.outputs] == ["y", "x", "w"]


BRANCHES = """<ir_version: 10, opset_import: ["" : 21]>
    branches (float[4] x, bool c) => (float[4] y) {
        y = If (c) <then_branch = one () => (float[4] a) { a = Add (x, late) },
                    else_branch = two () => (float[4] a) { a = Mul (x, late) }>
        late = Relu (x)
    }"""


def test_unsorted_nodes_are_sorted_also_for_subgraphs(tmp_path: Path) -> None:
    loaded = load(write(model(BRANCHES), tmp_path / "m.onnx"))
    assert [node.op_type for node in loaded.graph] == ["Relu", "If"]
    late = loaded.graph[0].outputs[0]
    assert all(graph[0].inputs[1] is late for graph in loaded.graph.subgraphs())


def test_sorted_nodes_keep_their_order(tmp_path: Path) -> None:
    nodes = "".join(f"n{i} = Relu (n{max(0, i - 3) if i % 2 else 0})\n" for i in range(1, 40))
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[2] n0) => (float[2] n39) {' + nodes + "}"
    loaded = load(write(model(text), tmp_path / "m.onnx"))
    assert [node.outputs[0].name for node in loaded.graph] == [f"n{i}" for i in range(1, 40)]


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("a = Add (x, late)", "a = Add (x, nowhere)", "nothing produces the value 'nowhere'"),
        ("a = Add (x, late)", "b = Add (x, late)", "nothing produces the output 'a'"),
        ("a = Add (x, late)", "a = Add (x, late) a = Relu (x)", "'a' is produced twice"),
        ("late = Relu (x)", "late = Relu (y)", "cycle"),
    ],
)
def test_names_in_subgraphs(tmp_path: Path, old: str, new: str, what: str) -> None:
    assert what in refusal(write(model(BRANCHES.replace(old, new)), tmp_path / "m.onnx")).what


FUNCTION = """<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
    g (float[2] x) => (float[2] y) { y = local.f (x) }
    <domain: "local", opset_import: ["" : 21]> f (a) => (b) { c = Relu (a) b = Neg (c) }"""


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("Neg (c)", "Neg (d)", "nothing produces the value 'd'"),
        ("c = Relu (a)", "a = Relu (a)", "'a' is produced twice"),
        ("b = Neg (c)", "d = Neg (c)", "nothing produces the output 'b'"),
        ("c = Relu (a)", "c = Relu (b)", "cycle"),
        ('["" : 21]> f', '["" : 999]> f', "too new"),
    ],
)
def test_names_in_functions(tmp_path: Path, old: str, new: str, what: str) -> None:
    load(write(model(FUNCTION), tmp_path / "good.onnx"))
    assert what in refusal(write(model(FUNCTION.replace(old, new)), tmp_path / "m.onnx")).what


# Tensors


def set_weight(**fields: object) -> Damage:
    def damage(proto: onnx.ModelProto) -> None:
        weight = proto.graph.initializer[0]
        for name, value in fields.items():
            weight.ClearField(name)
            if isinstance(value, list):
                getattr(weight, name).extend(value)
            elif value is not None:
                setattr(weight, name, value)

    return damage


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (set_weight(dims=[4, 3]), "disagree"),
        (set_weight(raw_data=bytes(31)), "disagree"),
        (set_weight(raw_data=b""), "disagree"),
        (set_weight(raw_data=None), "disagree"),
        (set_weight(raw_data=None, float_data=[1.0] * 7), "disagree"),
        (set_weight(raw_data=None, int32_data=[1] * 8), "disagree"),
        (set_weight(raw_data=None, dims=[2**40, 2**40]), "disagree"),
        (set_weight(dims=[2**62, 4]), "disagree"),
        (set_weight(dims=[-1, -32]), "negative"),
        (set_weight(data_type=0), "unknown type"),
        (set_weight(data_type=12345), "unknown type"),
        (set_weight(data_type=onnx.TensorProto.INT4, dims=[65]), "disagree"),
        (set_weight(data_type=onnx.TensorProto.STRING), "disagree"),
    ],
)
def test_shape_and_data(tmp_path: Path, damage: Damage, what: str) -> None:
    proto = model()
    damage(proto)
    tracemalloc.start()
    error = refusal(write(proto, tmp_path / "m.onnx"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert what in error.what
    assert "'w'" in error.where
    assert peak < 10_000_000


@pytest.mark.parametrize(
    "fields",
    [
        {"raw_data": None, "float_data": [1.0] * 8},
        {"raw_data": None, "data_type": onnx.TensorProto.FLOAT16, "int32_data": [15360] * 8},
        {"raw_data": None, "data_type": onnx.TensorProto.INT4, "dims": [3, 3], "int32_data": [0x21] * 5},
        {"raw_data": None, "data_type": onnx.TensorProto.COMPLEX64, "float_data": [1.0] * 16},
        {"raw_data": None, "data_type": onnx.TensorProto.STRING, "string_data": [b"a"] * 8},
        {"raw_data": None, "dims": [0, 2]},
        {"raw_data": bytes(3), "dims": [3, 3], "data_type": onnx.TensorProto.UINT2},
    ],
)
def test_every_way_to_store_a_tensor(tmp_path: Path, fields: dict[str, object]) -> None:
    proto = model()
    set_weight(**fields)(proto)
    tensor = load(write(proto, tmp_path / "m.onnx")).graph.initializers["w"].const_value
    assert tensor is not None
    assert tensor.numpy().shape == tuple(proto.graph.initializer[0].dims)


# External data


def test_external_data_are_mapped_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    external(tmp_path / "m.onnx", "deep/w.bin")
    monkeypatch.chdir(tmp_path)
    loaded = load("m.onnx")
    monkeypatch.chdir("/")
    tensor = loaded.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert np.array_equal(tensor.numpy(), np.arange(8).reshape(4, 2))


@pytest.mark.parametrize("location", ["w.bin", "./w.bin", "sub/../w.bin"])
def test_locations_inside(tmp_path: Path, location: str) -> None:
    (tmp_path / "sub").mkdir()
    load(external(tmp_path / "m.onnx", location=location))


@pytest.mark.parametrize(
    ("location", "what"),
    [
        ("missing.bin", "missing"),
        ("", "missing"),
        ("sub", "missing"),
        ("pipe", "missing"),
        ("w\0.bin", "missing"),
        ("w" * 300, "missing"),
        ("../outside.bin", "outside"),
        ("sub/../../outside.bin", "outside"),
        ("{tmp}/outside.bin", "outside"),
        ("/no/such/file", "outside"),
        ("C:\\w.bin", "outside"),
        ("\\\\server\\w.bin", "outside"),
        ("link.bin", "outside"),
        ("linked/outside.bin", "outside"),
    ],
)
def test_locations(tmp_path: Path, location: str, what: str) -> None:
    (tmp_path / "outside.bin").write_bytes(bytes(1000))
    folder = tmp_path / "m"
    (folder / "sub").mkdir(parents=True)
    os.mkfifo(folder / "pipe")
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    (folder / "linked").symlink_to(tmp_path)
    error = refusal(external(folder / "m.onnx", location=location.format(tmp=tmp_path)))
    assert what in error.what
    assert "'w'" in error.where


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        ({"offset": 65}, "cut off"),
        ({"offset": 10**30}, "cut off"),
        ({"offset": -1}, "cut off"),
        ({"length": 16}, "disagree"),
        ({"length": 64}, "disagree"),
        ({"offset": "many"}, "not a number"),
    ],
)
def test_extents(tmp_path: Path, entries: dict[str, str | int], what: str) -> None:
    assert what in refusal(external(tmp_path / "m.onnx", "w.bin", **entries)).what


def test_external_data_that_is_a_git_lfs_pointer(tmp_path: Path) -> None:
    path = external(tmp_path / "m.onnx")
    (tmp_path / "w.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "git lfs pull" in refusal(path).fix


def test_offset_and_length_are_optional(tmp_path: Path) -> None:
    proto = model()
    (tmp_path / "w.bin").write_bytes(proto.graph.initializer[0].raw_data)
    refer(proto.graph.initializer[0], location="w.bin")
    tensor = load(write(proto, tmp_path / "m.onnx")).graph.initializers["w"].const_value
    assert tensor is not None
    assert np.array_equal(tensor.numpy(), np.arange(8).reshape(4, 2))


def test_no_data_need_no_file(tmp_path: Path) -> None:
    proto = model()
    set_weight(dims=[0, 2])(proto)
    refer(proto.graph.initializer[0], location="none.bin", offset=0, length=0)
    tensor = load(write(proto, tmp_path / "m.onnx")).graph.initializers["w"].const_value
    assert tensor is not None
    assert tensor.tobytes() == b""


def test_hard_links_are_read(tmp_path: Path) -> None:
    path = external(tmp_path / "m.onnx")
    (tmp_path / "copy.bin").hardlink_to(tmp_path / "w.bin")
    tensor = load(path).graph.initializers["w"].const_value
    assert tensor is not None
    assert tensor.numpy()[3, 1] == 7


def test_a_cache_of_links_into_one_folder(tmp_path: Path) -> None:
    """The layout of the Hugging Face cache."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "revision" / "onnx"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    external(blobs / "m", location="model.onnx_data")
    (blobs / "w.bin").rename(blobs / "d")
    (snapshot / "model.onnx").symlink_to("../../../blobs/m")
    (snapshot / "model.onnx_data").symlink_to("../../../blobs/d")
    tensor = load(snapshot / "model.onnx").graph.initializers["w"].const_value
    assert tensor is not None
    assert tensor.numpy()[3, 1] == 7
    assert files(snapshot / "model.onnx") == (snapshot / "model.onnx", blobs / "d")
    (tmp_path / "d").write_bytes(bytes(1000))
    (snapshot / "model.onnx_data").unlink()
    (snapshot / "model.onnx_data").symlink_to("../../../d")
    assert "outside" in refusal(snapshot / "model.onnx").what


def test_a_link_to_a_model_elsewhere_names_it(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    path = external(tmp_path / "v1" / "m.onnx")
    (tmp_path / "latest.onnx").symlink_to(path)
    assert str(path) in refusal(tmp_path / "latest.onnx").fix


def test_external_constant_nodes_become_initializers(tmp_path: Path) -> None:
    proto = model()
    weight = proto.graph.initializer.pop()
    (tmp_path / "w.bin").write_bytes(weight.raw_data)
    refer(weight, location="w.bin")
    weight.name = ""
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=weight))
    loaded = load(write(proto, tmp_path / "m.onnx"))
    assert [node.op_type for node in loaded.graph] == ["MatMul"]
    assert loaded.graph[0].inputs[1] is loaded.graph.initializers["w"]


# Single files


@pytest.mark.parametrize("place", ["initializer", "constant", "branch"])
def test_big_tensors_stay_in_the_file(tmp_path: Path, place: str) -> None:
    data = np.arange(400_000, dtype=np.float32)
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[400000] x, bool c) => (float[400000] y) {'
    if place == "branch":
        branch = "(c) <then_branch = t () => (float[400000] z) { z = Add (x, w) },"
        text += f"y = If {branch} else_branch = e () => (float[400000] z) {{ z = Identity (x) }}> }}"
    else:
        text += "y = Add (x, w) }"
    proto = model(text, **({} if place == "branch" else {"w": data}))
    if place == "constant":
        proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=proto.graph.initializer.pop()))
    if place == "branch":
        proto.graph.node[0].attribute[0].g.initializer.append(numpy_helper.from_array(data, "w"))
    path = write(proto, tmp_path / "m.onnx")
    loaded = load(path)
    graphs = (graph for graph in loaded.graphs() if "w" in graph.initializers)
    tensor = next(graphs).initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert Path(tensor.path) == path
    assert np.array_equal(tensor.numpy(), data)
    assert files(path) == (path,)


def test_loading_a_single_file_takes_no_memory(tmp_path: Path) -> None:
    path = write(model(MATMUL.replace("4", "5000000"), w=np.ones((5_000_000, 2), np.float32)), tmp_path / "m.onnx")
    before, after = peak_memory("from bct_onnx.graph.load import load\n# measured\nm = load(sys.argv[1])", path)
    assert after - before < 15  # MiB; the file has 38


# Files of a model


def test_files_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = external(tmp_path / "m.onnx")
    assert files(path) == (path, tmp_path / "w.bin")
    assert size(path) == path.stat().st_size + 96
    monkeypatch.chdir(tmp_path)
    assert files("m.onnx")[0] == path
    (tmp_path / "w.bin").unlink()
    with pytest.raises(InputModelError):
        files(path)
