"""A model is written whole or not at all: after a failure nothing is left behind, and what was there stays."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.errors import InputModelError, OutputError
from bct_onnx.graph import save as module
from bct_onnx.graph.load import load
from bct_onnx.graph.save import save
from tests.graph.handmade import external, weights, write

Hashes = Callable[..., dict[Path, str]]


@pytest.fixture(params=["new", "replacing"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashes: Hashes
) -> Iterator[Path]:
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
