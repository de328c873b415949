"""``bct-onnx rewrite FOLDER``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke, line

QUICK = ("--preset", "w4a8-nearest", "--no-check")


@pytest.fixture
def folder(tmp_path: Path, bundled_model: Path) -> Path:
    """A folder as optimum writes it."""
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(bundled_model, source / "model.onnx")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bundled_model.parent / name, source / name)
    return source


def test_a_folder_becomes_a_folder(invoke: Invoke, folder: Path, tmp_path: Path) -> None:
    printed = invoke("rewrite", folder, "-o", tmp_path / "small", *QUICK, "--layout", "transformers.js")
    assert "transformers.js: a model, 3 files copied" in line(printed, "folder")
    assert line(printed, "wrote").endswith("small/onnx/model_quantized.onnx")
    assert (tmp_path / "small" / "onnx" / "model_quantized.onnx").is_file()
    again = invoke("rewrite", folder, "-o", tmp_path / "small", *QUICK, "--force", "--json")
    told = json.loads(again)
    assert told["layout"] == "optimum"
    assert list(told["models"]) == ["model.onnx"]
    assert not (tmp_path / "small" / "onnx").exists()


def test_options_for_one_model_are_refused(invoke: Invoke, folder: Path, bundled_model: Path) -> None:
    assert "--dry-run is for one model" in invoke("rewrite", folder, "--dry-run", *QUICK, code=2)
    kept = invoke("rewrite", folder, "-o", "small", "--keep-passes", "kept", *QUICK, code=2)
    assert "--keep-passes is for one model" in kept
    told = invoke("rewrite", bundled_model, "-o", "small.onnx", "--layout", "genai", code=2)
    assert "--layout is for folders" in told
    assert "unknown layout" in invoke("rewrite", folder, "-o", "small", "--layout", "keras", *QUICK, code=2)


def test_a_gate_holds_for_the_models_of_a_folder(invoke: Invoke, folder: Path) -> None:
    assert "less than --min-ratio" in invoke("rewrite", folder, "-o", "small", *QUICK, "--min-ratio", "50", code=1)
