"""The former names of commands: as before, with one line on stderr; and words that users look for."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import onnx
import pytest

from bct_onnx import cli
from bct_onnx.cli.aliases import FORMER, SYNONYMS
from tests.cli.conftest import Invoke
from tests.runtime import tiny
from tests.study.allocation import small


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sentences: Path) -> Path:
    """The current folder, with ``a.onnx``, a small encoder, and ``small.onnx``, a decoder."""
    del sentences
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    onnx.save(tiny.encoder(vocabulary=200), "a.onnx")
    small.write(tmp_path)
    return tmp_path


PASSES = ("--passes", small.PIPELINE, "--target", "portable")
WEIGHTS = ("--passes", "normalize,quantize-embeddings")
TIMES = ("--batch", "1", "--seq", "4", "--json")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("before", "now"),
    [
        (("plan", "small.onnx", *PASSES, "--target-ratio", "9", "--json"),
         ("rewrite", "small.onnx", *PASSES, "--target-ratio", "9", "--json", "--dry-run", "--plan", "-")),
        (("passes", "fuse-gelu"), ("list", "fuse-gelu")),
        (("passes",), ("list",)),
        (("presets",), ("list", "presets")),
        (("targets",), ("list", "targets")),
        (("targets", "--json"), ("list", "targets", "--json")),
        (("targets", "qnn"), ("list", "qnn")),
        (("targets", "ort-cpu", "--check", "a.onnx", "--json"), ("inspect", "a.onnx", "--target", "ort-cpu", "--json")),
        (("targets", "--check=a.onnx", "ort-cpu"), ("inspect", "a.onnx", "--target", "ort-cpu")),
        (("explain", "a.onnx", "table", "--preset", "w4"), ("study", "a.onnx", "table", "--preset", "w4")),
        (("sensitivity", "a.onnx", *WEIGHTS, "--by", "tensor", "--json"),
         ("study", "a.onnx", *WEIGHTS, "--by", "tensor", "--json")),
    ],
)  # fmt: skip
def test_a_former_name_does_what_it_did(
    before: tuple[str, ...], now: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(before) == 0
    former = capsys.readouterr()
    hint, _, instead = former.err.partition("; write: ")
    assert hint == f"hint: 'bct-onnx {before[0]}' goes with the next version" and former.err.count("\n") == 1
    assert sorted(shlex.split(instead)) == sorted(("bct-onnx", *now))
    assert cli.main(now) == 0
    assert capsys.readouterr() == (former.out, "")


@pytest.mark.usefixtures("folder")
def test_a_plan_is_written_where_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "small.onnx", *PASSES, "--target-ratio", "9", "-o", "plan.toml"]) == 0
    assert "wrote      plan.toml" in capsys.readouterr().out and Path("plan.toml").is_file()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("plan", "small.onnx"), 2),
        (("targets", "--check", "a.onnx"), 2),
        (("targets", "cuda"), 2),
        (("targets", "ort-cpu", "--check", "none.onnx"), 3),
        (("eval", "a.onnx", "--task", "translation", "--data", "dev.tsv"), 2),
        (("frontier", "a.onnx"), 2),
        (("tune", "-o", "costs.txt"), 2),
        (("explain", "none.onnx", "weight"), 3),
    ],
)
def test_it_ends_as_it_did(arguments: tuple[str, ...], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == code
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("folder")
def test_times_by_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["budget", "a.onnx", *WEIGHTS, *TIMES, "--runs", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"][0]["after"] == "input"


def test_another_word_for_rewrite_needs_no_hint(invoke: Invoke, folder: Path) -> None:
    invoke("quantize", folder / "a.onnx", "-o", "q.onnx", "--passes", "quantize-embeddings", "--no-check", "-q")
    assert (folder / "q.onnx").is_file()


def test_no_former_name_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["-h"]) == 0
    listed = capsys.readouterr().out
    assert not any(f"\n  {name} " in listed for name in (*FORMER, *SYNONYMS))
