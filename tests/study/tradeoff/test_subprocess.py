"""Rows are built in processes of their own, which may fail in any way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from bct_onnx.study.tradeoff import Job
from bct_onnx.study.tradeoff.building import Place
from bct_onnx.study.tradeoff.subprocess import build_apart
from tests.runtime import tiny

pytestmark = pytest.mark.whole


@pytest.fixture
def place(tmp_path: Path) -> Place:
    folder, cache = tmp_path / "folder", tmp_path / "cache"
    folder.mkdir()
    cache.mkdir()
    onnx.save(tiny.encoder(vocabulary=200), tmp_path / "m.onnx")
    return Place(tmp_path / "m.onnx", "ort-cpu", "", folder, cache)


def test_a_model_and_what_it_cost(place: Place) -> None:
    built = build_apart(Job("4 bit", "nearest", "quantize-embeddings"), place)
    assert built.error == "" and built.file is not None and built.file.parent == place.folder
    assert built.file.stat().st_size < place.model.stat().st_size
    assert built.slowest[0] and 0 < built.slowest[1] < built.seconds and built.peak is not None


def test_what_the_user_has_done_wrong_is_a_line(place: Place) -> None:
    built = build_apart(Job("no", "nearest", "quantize-weights{keep=*}"), place)
    assert built.file is None and built.error.startswith("nothing was changed: ")


def test_another_tool(place: Place) -> None:
    built = build_apart(Job("d", "others", tool="ort-dynamic", setting="ort-dynamic: int8 per tensor"), place)
    assert built.file is not None and built.text == "int8 per tensor" and built.seconds > 0


@pytest.mark.parametrize(
    ("does", "error"),
    [
        ("raise SystemError('no idea')", "SystemError: no idea"),
        ("import os; os._exit(3)", "exit code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended by signal 9"),
    ],
)
def test_however_the_process_ends(place: Place, monkeypatch: pytest.MonkeyPatch, does: str, error: str) -> None:
    start: Callable[..., object] = subprocess.Popen

    def replaced(command: list[str], **options: object) -> object:
        return start([sys.executable, "-c", does], **options)

    monkeypatch.setattr(subprocess, "Popen", replaced)
    assert build_apart(Job("x", "nearest", "quantize-embeddings"), place).error == error


def test_no_process_is_left_behind(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[subprocess.Popen[bytes]] = []
    wait = subprocess.Popen.wait

    def interrupted(self: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        if timeout is None and not running:
            running.append(self)
            raise KeyboardInterrupt
        return wait(self, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_apart(Job("4 bit", "nearest", "quantize-embeddings"), place)
    (process,) = running
    assert process.returncode in (-signal.SIGTERM, -signal.SIGKILL)
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
