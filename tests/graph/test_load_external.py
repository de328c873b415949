"""Tensors in files beside the model: where these may lie, how much of them is read, and which files a model has."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from bct_onnx.errors import InputModelError
from bct_onnx.graph.load import files, load, size
from tests.graph.handmade import external, model, refer, write

Refusal = Callable[[Path | str], InputModelError]


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
def test_locations(tmp_path: Path, location: str, what: str, refusal: Refusal) -> None:
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
def test_extents(tmp_path: Path, entries: dict[str, str | int], what: str, refusal: Refusal) -> None:
    assert what in refusal(external(tmp_path / "m.onnx", "w.bin", **entries)).what


def test_external_data_that_is_a_git_lfs_pointer(tmp_path: Path, refusal: Refusal) -> None:
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


def test_hard_links_are_read(tmp_path: Path) -> None:
    path = external(tmp_path / "m.onnx")
    (tmp_path / "copy.bin").hardlink_to(tmp_path / "w.bin")
    tensor = load(path).graph.initializers["w"].const_value
    assert tensor is not None
    assert tensor.numpy()[3, 1] == 7


def test_a_cache_of_links_into_one_folder(tmp_path: Path, refusal: Refusal) -> None:
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


def test_a_link_to_a_model_elsewhere_names_it(tmp_path: Path, refusal: Refusal) -> None:
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


def test_files_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = external(tmp_path / "m.onnx")
    assert files(path) == (path, tmp_path / "w.bin")
    assert size(path) == path.stat().st_size + 96
    monkeypatch.chdir(tmp_path)
    assert files("m.onnx")[0] == path
    (tmp_path / "w.bin").unlink()
    with pytest.raises(InputModelError):
        files(path)
