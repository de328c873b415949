"""Files that are no ONNX model, or a damaged one: `load` says what they are, and no other error comes out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bct_onnx.errors import InputModelError
from bct_onnx.graph.load import load
from tests.graph.handmade import BRANCHES, FUNCTION, MATMUL, external, model, write

Refusal = Callable[[Path | str], InputModelError]


def test_missing_directory_empty(tmp_path: Path, refusal: Refusal) -> None:
    assert "found" in refusal(tmp_path / "no.onnx").what
    assert "folder" in refusal(tmp_path).what
    (tmp_path / "empty.onnx").touch()
    assert "empty" in refusal(tmp_path / "empty.onnx").what


def test_names_no_file_can_have(tmp_path: Path, refusal: Refusal) -> None:
    assert "found" in refusal(tmp_path / "a\0b.onnx").what
    assert "found" in refusal(tmp_path / ("n" * 300)).what


def test_a_pipe_is_not_opened(tmp_path: Path, refusal: Refusal) -> None:
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
def test_other_contents(tmp_path: Path, content: bytes, hint: str, refusal: Refusal) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    assert hint in str(refusal(tmp_path / "m.onnx"))


def test_cut_anywhere(tmp_path: Path, refusal: Refusal) -> None:
    whole = model().SerializeToString()
    path = tmp_path / "m.onnx"
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        refusal(path)


def test_cut_in_a_big_tensor(tmp_path: Path, refusal: Refusal) -> None:
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
