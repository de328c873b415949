"""Hashing beside other work."""

from __future__ import annotations

import hashlib
import itertools
import threading
from pathlib import Path

import pytest

from bct_onnx import digest
from bct_onnx.errors import UsageError


def test_beside_other_work_the_result_is_the_same(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]) * (5 << 20))
    with digest.beside(files) as found:
        assert found() == digest.of_files(files)
    whole = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    assert digest.of_files(files) == f"sha256:{whole}"


def test_an_error_is_told_where_the_result_is_asked_for(tmp_path: Path) -> None:
    with digest.beside([tmp_path / "gone"]) as found, pytest.raises(UsageError, match="cannot be read"):
        found()


def test_what_is_left_early_does_not_go_on(tmp_path: Path) -> None:
    file = tmp_path / "again"
    file.write_bytes(bytes(1 << 20))
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), digest.beside(itertools.repeat(file)):
        raise KeyboardInterrupt
    assert threading.active_count() == before
