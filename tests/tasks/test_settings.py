"""Settings of a model's folder: what is there, and files that hold something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from bct_onnx.errors import UsageError
from bct_onnx.tasks.settings import settings


def test_no_file_says_nothing(tmp_path: Path) -> None:
    assert settings(tmp_path / "config.json") == {}


def test_a_file_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": 1}', encoding="utf-8")
    assert settings(tmp_path / "config.json") == {"a": 1}


@pytest.mark.parametrize(("content", "message"), [("{", "cannot be read"), ("[1]", "no object")])
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        settings(tmp_path / "config.json")
