"""What killed processes left is swept; what another process uses, or we did not make, is not. Two runs, one output."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bct_onnx.errors import UsageError
from bct_onnx.graph import leftovers
from bct_onnx.graph import save as module
from bct_onnx.graph.atomic import TemporaryFolder, scratch
from bct_onnx.graph.load import files, load
from bct_onnx.graph.save import save
from tests.graph.handmade import weights, write


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_only_what_a_dead_process_left_is_swept(tmp_path: Path) -> None:
    kept = {".bct-spool.short", ".bct-save.UPPERCAS", ".out.onnx.abcdefgh", "bct-save.abcdefgh", "models"}
    for name in (*kept, ".bct-save.abcdefgh", ".bct-spool.01234_67"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / ".bct-save.linked00").symlink_to(tmp_path / "models")
    (tmp_path / ".bct-save.file0000").touch()
    with TemporaryFolder(tmp_path, "spool") as used:
        assert {path.name for path in tmp_path.iterdir()} == kept | {
            used.name,
            ".bct-save.linked00",
            ".bct-save.file0000",
        }
        with TemporaryFolder(tmp_path, "save") as other:
            assert used.is_dir() and other.is_dir()
        assert used.is_dir() and not other.exists()
    assert (tmp_path / "models" / "file").exists() and not used.exists()


def test_a_folder_that_is_swept_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = leftovers._lock
    taken: list[Path] = []

    def late(folder: Path, *, wait: bool = True) -> leftovers.Lock:
        if wait and not taken:
            taken.append(folder)
            leftovers.sweep(folder.parent)
            folder.mkdir(exist_ok=True)  # another one of the same name
            return os.open(tmp_path, os.O_RDONLY)
        return lock(folder, wait=wait)

    monkeypatch.setattr(leftovers, "_lock", late)
    path, held = leftovers.make(tmp_path, "save")
    assert path.is_dir() and path != taken[0]
    leftovers.release(held)


HOLD = """
import sys, tempfile
from bct_onnx.graph.atomic import scratch
tempfile.tempdir = sys.argv[1]
with scratch("bench") as folder:
    (folder / "large").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_temporary_folders_of_killed_processes_are_swept_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of living ones stay, and of other users', who may make folders of these names in the same place."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with hold(tmp_path) as killed, hold(tmp_path) as lives:
        assert killed.stdout is not None and lives.stdout is not None
        left, used = (Path(line.readline().strip()).parent for line in (killed.stdout, lives.stdout))
        assert left.parent == used.parent == tmp_path and left.is_dir()
        killed.kill()
        killed.wait()
        assert left.is_dir()
        with monkeypatch.context() as other:
            other.setattr(os, "geteuid", lambda: 12345)
            leftovers.sweep(tmp_path)
        assert left.is_dir()
        with scratch("plan") as own:
            assert set(tmp_path.iterdir()) == {used, own.parent}
    assert names(tmp_path) == []


def test_models_can_be_saved_in_temporary_folders() -> None:
    with scratch("plan") as folder:
        assert save(load(write(weights(1), folder / "in.onnx")), folder / "out.onnx")[0].exists()
    assert not folder.exists()


def hold(folder: Path) -> subprocess.Popen[str]:
    """A process that has a temporary folder until its input ends."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("placed", [False, True])
def test_a_killed_publication_is_undone_or_ended(tmp_path: Path, placed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a kill leaves it between the two renames, or behind them: one of the two data files is of no use."""
    monkeypatch.setattr(module, "EMBEDDED", 0)
    out = tmp_path / "out.onnx"
    _, old = save(load(write(weights(1), tmp_path / "a.onnx")), out)
    folder = tmp_path / ".bct-save.abcdefgh"
    (folder / "x").mkdir(parents=True)
    model, data = save(load(write(weights(2), tmp_path / "b.onnx")), folder / "x" / "out.onnx")
    model, data = model.rename(folder / model.name), data.rename(folder / data.name)
    leftovers.note(model, [old])
    os.link(data, tmp_path / data.name)
    if placed:
        model.replace(out)
    leftovers.sweep(tmp_path)
    used = files(out)[1]
    assert names(tmp_path) == sorted(["a.onnx", "b.onnx", "out.onnx", data.name if placed else old.name])
    assert used.name == (data.name if placed else old.name) and load(out).graph


@pytest.mark.parametrize("embedded", [0, 1 << 30])
def test_of_two_runs_to_one_new_output_the_later_is_refused(
    tmp_path: Path, embedded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EMBEDDED", embedded)
    out = tmp_path / "out" / "out.onnx"
    out.parent.mkdir()
    first, second = (load(write(weights(seed), tmp_path / f"{seed}.onnx")) for seed in (1, 2))
    with pytest.raises(UsageError, match="the output exists"):
        save(second, out, validate=lambda path: assert_saved(first, out))
    before = {name: (out.parent / name).read_bytes() for name in names(out.parent)}
    assert len(before) == (2 if embedded == 0 else 1)
    out.unlink()
    save(first, out)
    assert before == {name: (out.parent / name).read_bytes() for name in names(out.parent)}


def test_of_two_runs_that_replace_one_output_one_is_left_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashes: Callable[..., dict[Path, str]]
) -> None:
    monkeypatch.setattr(module, "EMBEDDED", 0)
    out = tmp_path / "out" / "out.onnx"
    out.parent.mkdir()
    first, second = (load(write(weights(seed), tmp_path / f"{seed}.onnx")) for seed in (1, 2))
    save(load(write(weights(3), tmp_path / "3.onnx")), out)
    save(second, out, force=True, validate=lambda path: assert_saved(first, out, force=True))
    written = hashes(*out.parent.iterdir())
    assert len(written) == 2
    save(second, out, force=True)
    assert hashes(*out.parent.iterdir()) == written


def assert_saved(model: object, out: Path, *, force: bool = False) -> None:
    import onnx_ir as ir

    assert isinstance(model, ir.Model)
    assert save(model, out, force=force)[0] == out
