"""What tests of several commands need."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bct_onnx import cli

Invoke = Callable[..., str]


def line(printed: str, label: str) -> str:
    """The line of a printed table that begins with ``label``."""
    return next(each for each in printed.splitlines() if re.match(rf"\s*{re.escape(label)}(\s|{{|$)", each))


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Invoke:
    """``invoke(*arguments, code=0)``: run in an empty folder; its stdout, or its stderr when it fails."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, code: int = 0) -> str:
        ended = cli.main([str(one) for one in arguments])
        printed = capsys.readouterr()
        assert ended == code, printed.err
        if code == 0:
            assert printed.err == ""
        return printed.err if code else printed.out

    return run


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    """Three labelled sentences, as ``dev.tsv`` in that folder."""
    path = tmp_path / "dev.tsv"
    path.write_text(
        "sentence\tlabel\na gripping and tender film\t1\ndull , flat and far too long\t0\ngood fun\t1\n",
        encoding="utf-8",
    )
    return path
