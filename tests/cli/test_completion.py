"""What a shell completes, asked for as a shell does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bct_onnx import registry
from bct_onnx.cli import completion

Complete = Callable[..., subprocess.CompletedProcess[str]]


def offered(run_cli: Complete, *words: str) -> list[str]:
    """What is offered for the last of the words."""
    done = run_cli(
        _BCT_ONNX_COMPLETE="complete_bash", COMP_WORDS=" ".join(("bct-onnx", *words)), COMP_CWORD=str(len(words))
    )
    return done.stdout.split()


def test_commands_but_not_their_former_names(run_cli: Complete) -> None:
    assert offered(run_cli, "b") == ["bench"] and offered(run_cli, "se") == []


def test_presets_targets_and_passes(run_cli: Complete) -> None:
    assert offered(run_cli, "rewrite", "--preset", "w4a") == ["w4a8", "w4a8-nearest"]
    assert offered(run_cli, "rewrite", "--target", "ort-cu") == ["ort-cuda"]
    assert offered(run_cli, "rewrite", "--passes", "lift,fuse-ge") == ["lift,fuse-gelu"]


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("a.csv", "sentence,label\nx,1\n", ["sentence", "label"]),
        ("a.tsv", "text a\ttext b\n", ["text a", "text b"]),
        ("a.jsonl", '{"text": "x", "score": 1}\n', ["text", "score"]),
        ("a.jsonl", "no json\n", []),
        ("a.txt", "a sentence\n", []),
    ],
)
def test_columns_of_the_file(name: str, content: str, columns: list[str], tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    assert list(completion._columns(path, "")) == columns
    assert list(completion._columns(path, "sentence,la")) == ["sentence,label"] * ("label" in columns)
    assert list(completion._columns(tmp_path / "none.csv", "")) == [] == list(completion._columns(None, ""))


def test_names_are_those_of_the_registry() -> None:
    assert list(completion.preset_names("")) == [*registry.PRESETS, *registry.SYNONYMS]
    assert sorted(completion.target_names("")) == sorted(registry.TARGETS)
    assert set(completion.pass_names("")) == set(registry.PASSES)


def test_nothing_heavy_is_imported() -> None:
    code = "import sys; from bct_onnx.cli import completion as c; [*c.listed_names('')]; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
