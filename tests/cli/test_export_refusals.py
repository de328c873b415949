"""Exports that must not happen: each says why and leaves nothing behind."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bct_onnx.errors import GateError, InputModelError, UsageError
from bct_onnx.exporting import CHOICES, Recipe, export, exporters
from bct_onnx.exporting.checkpoint import read
from tests.cli.conftest import Invoke

needs_export = pytest.mark.export
pytestmark = pytest.mark.filterwarnings("ignore")  # pytest sees the exporters' warnings before they can be captured
RunCli = Callable[..., subprocess.CompletedProcess[str]]


@needs_export
@pytest.mark.parametrize(
    ("loader", "recipe", "why", "fix"),
    [
        ("AutoModelForSequenceClassification", Recipe(exporter="optimum", opset=23), "opset 11 to 20", "dynamo can"),
        ("AutoModelForSequenceClassification", Recipe(cache=True), "needs a decoder", ""),
        ("AutoModelForCausalLM", Recipe(exporter="legacy"), "causal masks", "optimum can"),
        ("AutoModelForCausalLM", Recipe(exporter="dynamo", cache=True), "only optimum", "optimum can"),
    ],
)
def test_what_an_exporter_cannot_do_is_refused_before_it_runs(
    loader: str, recipe: Recipe, why: str, fix: str, checkpoint: Callable[..., Path]
) -> None:
    family = "llama" if loader == "AutoModelForCausalLM" else "bert"
    source = read(checkpoint(family, loader), "auto", attention="default", dtype="fp32")
    with pytest.raises(UsageError) as caught:
        exporters.choose(source, recipe)
    assert why in caught.value.why and fix in caught.value.fix


@needs_export
def test_an_optimum_that_does_not_go_with_transformers_is_passed_over(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = read(checkpoint(), "auto", attention="default", dtype="fp32")
    load = importlib.import_module

    def load_others(name: str) -> Any:
        if name.startswith("optimum"):
            raise ImportError("cannot import name '_CAN_RECORD_REGISTRY' from 'transformers.utils.generic'")
        return load(name)

    monkeypatch.setattr(importlib, "import_module", load_others)
    name, reason = exporters.choose(source, Recipe())
    assert name == "dynamo" and "does not go with transformers" in reason


@needs_export
def test_a_model_that_computes_something_else_is_not_written(
    checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = exporters.EXPORTERS["legacy"]

    def write_wrongly(source: Any, recipe: Recipe, draft: Path) -> None:
        write(source, recipe, draft)
        model = onnx.load(draft)
        bias = next(tensor for tensor in model.graph.initializer if tensor.name == "classifier.bias")
        bias.CopyFrom(onnx.numpy_helper.from_array(np.array([0.01, 0], np.float32), bias.name))
        onnx.save(model, draft)

    monkeypatch.setitem(exporters.EXPORTERS, "legacy", write_wrongly)
    with pytest.raises(GateError, match="does not compute what PyTorch computes") as caught:
        export(checkpoint(), tmp_path / "model.onnx", Recipe(exporter="legacy"))
    assert "largest difference 0.01, allowed 0.001" in caught.value.where
    assert list(tmp_path.iterdir()) == []


@needs_export
def test_a_failing_exporter_is_quoted_and_leaves_nothing(
    checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(source: Any, recipe: Recipe, draft: Path) -> None:
        draft.write_bytes(b"half of it")
        subprocess.run(["sh", "-c", "echo said in C++ >&2"], check=True)
        print("said in Python")
        raise RuntimeError("unordered_map::at")

    monkeypatch.setitem(exporters.EXPORTERS, "legacy", fail)
    with pytest.raises(InputModelError, match="the legacy exporter failed") as caught:
        export(checkpoint(), tmp_path / "model.onnx", Recipe(exporter="legacy"))
    assert caught.value.why.startswith("RuntimeError: unordered_map::at\n    it printed:\n")
    assert "said in C++" in caught.value.why and "said in Python" in caught.value.why
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert list(tmp_path.iterdir()) == [] and capfd.readouterr() == ("", "")


@needs_export
@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ({"config.json": None}, "not a checkpoint: no config.json in this folder"),
        ({"config.json": b'{"model_type": "nonsense"}'}, "unknown architecture"),
        ({"config.json": b'{"model_type": "bert"}'}, "cannot tell the task of this checkpoint"),
        ({"config.json": b"{"}, "not a checkpoint: its config.json is damaged"),
        ({"model.safetensors": None}, "this checkpoint cannot be loaded"),
        ({"model.safetensors": b"damaged"}, "this checkpoint cannot be loaded"),
    ],
    ids=str,
)
def test_a_damaged_checkpoint(
    damage: dict[str, bytes | None], what: str, checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in checkpoint().iterdir():
        content = damage.get(file.name, file.read_bytes())
        if content is not None:
            (broken / file.name).write_bytes(content)
    with pytest.raises(InputModelError) as caught:
        export(broken, tmp_path / "model.onnx", Recipe(exporter="legacy"))
    assert caught.value.what == what and caught.value.where == str(broken)
    assert list(tmp_path.iterdir()) == [broken]


@needs_export
@pytest.mark.parametrize("model", ["./nowhere", "/no/such/folder", "a/b/c"])
def test_a_missing_folder(model: str, tmp_path: Path) -> None:
    with pytest.raises(InputModelError, match="no such checkpoint folder"):
        export(model, tmp_path / "model.onnx")


@needs_export
@pytest.mark.whole
def test_a_hub_id_without_network(run_cli: RunCli, tmp_path: Path) -> None:
    done = run_cli("export", "nobody/nothing", "-o", "model.onnx", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "empty"))
    assert done.returncode == 3
    assert done.stderr.startswith("error: no such folder, and not to be had from the Hugging Face hub\n")
    assert "nobody/nothing" in done.stderr and "Traceback" not in done.stderr


@needs_export
def test_an_existing_output_is_replaced_only_with_force(
    invoke: Invoke, checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"precious")
    assert "the output exists" in invoke("export", checkpoint(), "-o", file, code=2)
    assert file.read_bytes() == b"precious"
    assert invoke("export", checkpoint(), "-o", file, "--force", "--quiet", "--exporter", "legacy") == ""
    onnx.checker.check_model(file)


@pytest.mark.parametrize("field", CHOICES)
def test_unknown_choices(field: str) -> None:
    values: dict[str, Any] = {field: "fancy"}
    with pytest.raises(UsageError, match=f"unknown {field} 'fancy'") as caught:
        Recipe(**values)
    assert caught.value.fix == f"one of: {', '.join(CHOICES[field])}"


@pytest.mark.parametrize("absent", [("torch",), ("transformers",), ("torch", "transformers")])
def test_without_the_extra(absent: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is installed here."""
    spec = importlib.machinery.ModuleSpec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else spec(name, None))
    with pytest.raises(UsageError) as caught:
        export("anything", tmp_path / "model.onnx")
    assert caught.value.where == ", ".join(absent) and caught.value.fix == "pip install 'bct-onnx[export]'"
