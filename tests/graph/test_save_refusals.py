"""Places that `save` does not write to: taken ones, those of its own inputs, and those where nobody can write."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bct_onnx.errors import BctError, UsageError
from bct_onnx.graph.load import files, load
from bct_onnx.graph.save import check_writable, save
from tests.graph.handmade import external, model, weights, write

Hashes = Callable[..., dict[Path, str]]
Names = Callable[[Path], set[str]]


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
def test_inputs_are_never_replaced(tmp_path: Path, target: str, force: bool, hashes: Hashes) -> None:
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


def test_places_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: Names) -> None:
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


def test_messages_are_complete(tmp_path: Path) -> None:
    (tmp_path / "out.onnx").touch()
    for attempt in (tmp_path / "out.onnx", tmp_path / "no" / "out.onnx"):
        with pytest.raises(BctError) as caught:
            check_writable(attempt)
        assert re.search(r"where: .*\n.*what to do: ", str(caught.value))
