"""From a checkpoint to a checked file: every exporter, every refusal, nothing half-written."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from bct_onnx.errors import GateError, InputModelError, UsageError
from bct_onnx.exporting import CHOICES, Exported, Recipe, export, exporters
from bct_onnx.exporting.checkpoint import read

needs_export = pytest.mark.export
pytestmark = pytest.mark.filterwarnings("ignore")  # pytest sees the exporters' warnings before they can be captured
RunCli = Callable[..., subprocess.CompletedProcess[str]]
OpenSession = Callable[..., ort.InferenceSession]

SMALL = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``checkpoint(family, loader, half=False)``: folder of a tiny model with random weights."""
    folder = tmp_path_factory.mktemp("checkpoints")

    @functools.cache
    def make(family: str = "bert", loader: str = "AutoModelForSequenceClassification", half: bool = False) -> Path:
        import torch
        import transformers

        torch.manual_seed(0)
        model = getattr(transformers, loader).from_config(transformers.AutoConfig.for_model(family, **SMALL))
        place = folder / f"{family}-{loader}-{half}"
        (model.half() if half else model).save_pretrained(place)
        return place

    return make


@pytest.fixture(scope="session")
def made(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Exported]:
    """``made(exporter, attention)``: the tiny BERT, exported once; alone in its folder."""

    @functools.cache
    def make(exporter: str, attention: str = "default") -> Exported:
        file = tmp_path_factory.mktemp(f"{exporter}-{attention}") / "model.onnx"
        return export(checkpoint(), file, Recipe(exporter=exporter, attention=attention))

    return make


@needs_export
@pytest.mark.parametrize("attention", ["default", "eager"])
@pytest.mark.parametrize("exporter", exporters.EXPORTERS)
def test_each_exporter(exporter: str, attention: str, made: Callable[..., Exported], ort_session: OpenSession) -> None:
    done = made(exporter, attention)
    (file,) = done.files
    assert (done.exporter, done.reason, done.task) == (exporter, "", "text-classification")
    assert done.difference < 1e-5 and done.nbytes == file.stat().st_size
    assert list(file.parent.iterdir()) == [file]
    onnx.checker.check_model(file, full_check=True)
    session = ort_session(file)
    inputs = {value.name: value.shape for value in session.get_inputs()}
    assert list(inputs) == ["input_ids", "attention_mask", "token_type_ids"]
    assert all(shape == ["batch_size", "sequence_length"] for shape in inputs.values())
    assert [(value.name, value.shape) for value in session.get_outputs()] == [("logits", ["batch_size", 2])]
    for batch, length in ((1, 1), (5, 33)):
        ids = np.ones((batch, length), np.int64)
        (logits,) = session.run(None, dict.fromkeys(inputs, ids))
        assert np.asarray(logits).shape == (batch, 2)


@needs_export
@pytest.mark.parametrize("exporter", exporters.EXPORTERS)
def test_the_same_bytes_twice_and_no_path_of_this_machine(
    exporter: str, made: Callable[..., Exported], checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    first = made(exporter).files[0].read_bytes()
    second = export(checkpoint(), tmp_path / "model.onnx", Recipe(exporter=exporter)).files[0].read_bytes()
    assert first == second
    for path in ("site-packages", str(tmp_path.parent), str(Path.home())):
        assert path.encode() not in first


@needs_export
def test_a_half_precision_checkpoint_is_exported_in_float32(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    export(checkpoint(half=True), file, Recipe(exporter="legacy"))
    assert _types(file) == {onnx.TensorProto.FLOAT}


@needs_export
def test_float16_on_demand(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    export(checkpoint(), file, Recipe(exporter="legacy", dtype="fp16"))
    assert _types(file) == {onnx.TensorProto.FLOAT16}


@needs_export
@pytest.mark.parametrize(("exporter", "opset"), [("optimum", 17), ("legacy", 14)])
def test_opset(exporter: str, opset: int, checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    done = export(checkpoint(), tmp_path / "model.onnx", Recipe(exporter=exporter, opset=opset))
    assert done.opset == opset


@needs_export
def test_an_architecture_that_optimum_does_not_know(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    done = export(checkpoint("ernie"), tmp_path / "model.onnx", Recipe(opset=23))
    assert (done.exporter, done.opset) == ("dynamo", 23)
    done = export(checkpoint("ernie", "AutoModel"), tmp_path / "states.onnx", Recipe(exporter="legacy"))
    assert [name for name, _ in done.outputs] == ["last_hidden_state", "pooler_output"]


@needs_export
@pytest.mark.parametrize(
    ("family", "recipe", "reason"),
    [
        ("ernie", Recipe(), "optimum has no recipe for the architecture 'ernie'"),
        ("bert", Recipe(opset=21), "TorchScript writes opset 11 to 20"),
        ("bert", Recipe(dtype="fp16"), "optimum writes fp16 on a GPU only"),
    ],
)
def test_auto_says_why_it_does_not_take_optimum(
    family: str, recipe: Recipe, reason: str, checkpoint: Callable[..., Path]
) -> None:
    source = read(checkpoint(family), "auto", attention="default", dtype="fp32")
    assert exporters.choose(source, recipe) == ("dynamo", reason)
    assert exporters.choose(source, Recipe(exporter="dynamo")) == ("dynamo", "")


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
@pytest.mark.parametrize("recipe", [Recipe(), Recipe(cache=True), Recipe(exporter="dynamo")], ids=str)
def test_a_decoder(recipe: Recipe, checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    done = export(checkpoint("llama", "AutoModelForCausalLM"), tmp_path / "model.onnx", recipe)
    assert done.task == "text-generation" and done.difference < 1e-5
    assert done.outputs[0] == ("logits", ("batch_size", "sequence_length", 99))
    assert any(name == "past_key_values.1.value" for name, _ in done.inputs) == recipe.cache
    assert any(name == "present.1.value" for name, _ in done.outputs) == recipe.cache


@needs_export
def test_the_task_decides_on_class_and_outputs(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    recipe = Recipe(exporter="legacy", task="feature-extraction")
    done = export(checkpoint(), tmp_path / "model.onnx", recipe)
    assert done.outputs[0] == ("last_hidden_state", ("batch_size", "sequence_length", 32))
    assert done.outputs[1] == ("pooler_output", ("batch_size", 32))


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
def test_a_hub_id_without_network(run_cli: RunCli, tmp_path: Path) -> None:
    done = run_cli("export", "nobody/nothing", "-o", "model.onnx", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "empty"))
    assert done.returncode == 3
    assert done.stderr.startswith("error: no such folder, and not to be had from the Hugging Face hub\n")
    assert "nobody/nothing" in done.stderr and "Traceback" not in done.stderr


@needs_export
def test_the_command(run_cli: RunCli, checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    done = run_cli("export", checkpoint(), "-o", "model.onnx", "--attention", "eager")
    assert (done.returncode, done.stderr) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[1:])
    assert rows["exporter"] == "optimum" and rows["outputs"] == "logits [batch_size, 2]"
    assert rows["check"].startswith("largest difference to PyTorch ")
    assert rows["wrote"] == f"model.onnx ({(tmp_path / 'model.onnx').stat().st_size / 1e6:.1f} MB)"
    assert rows["next"] == "bct-onnx rewrite model.onnx -o model.bct.onnx"


@needs_export
def test_an_existing_output_is_replaced_only_with_force(
    run_cli: RunCli, checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"precious")
    refused = run_cli("export", checkpoint(), "-o", file)
    assert refused.returncode == 2 and "the output exists" in refused.stderr and file.read_bytes() == b"precious"
    done = run_cli("export", checkpoint(), "-o", file, "--force", "--quiet", "--exporter", "legacy")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    onnx.checker.check_model(file)


@pytest.mark.parametrize("field", CHOICES)
def test_unknown_choices(field: str) -> None:
    values: dict[str, Any] = {field: "fancy"}
    with pytest.raises(UsageError, match=f"unknown {field} 'fancy'") as caught:
        Recipe(**values)
    assert caught.value.fix == f"one of: {', '.join(CHOICES[field])}"


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    with pytest.raises(UsageError) as caught:
        export("anything", tmp_path / "model.onnx")
    assert caught.value.where == "torch" and caught.value.fix == "pip install 'bct-onnx[export]'"


@needs_export
@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("tiny-bert-sst2", Recipe(exporter="optimum")),
        ("gpt2-ptb", Recipe(exporter="dynamo", attention="eager")),
        ("gpt2-ptb", Recipe(exporter="optimum", cache=True)),
        ("stories260k", Recipe(exporter="optimum", attention="eager", cache=True)),
    ],
)
def test_real_models(name: str, recipe: Recipe, real_dir: Path, exported: Callable[..., Path]) -> None:
    """Each is compared with PyTorch while it is exported; here: what was written holds all its parameters."""
    model = onnx.load(exported(name, recipe.exporter, recipe.attention, recipe.cache))
    parameters = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    stored = (real_dir / "models" / name / "model.safetensors").stat().st_size / 2
    assert 0.9 * stored < parameters < 1.6 * stored  # a tied table may be there twice, once transposed
    outputs = [value.name for value in model.graph.output]
    assert outputs[0] == "logits" and (len(outputs) > 1) == recipe.cache
    for output in model.graph.output:
        names = [dim.dim_param for dim in output.type.tensor_type.shape.dim if dim.dim_param]
        assert set(names) <= {"batch_size", "sequence_length", "past_sequence_length + sequence_length"}


def _types(file: Path) -> set[int]:
    """Element types of the float weights."""
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}
    tensors = onnx.load(file).graph.initializer
    return {tensor.data_type for tensor in tensors if len(tensor.dims) == 2} & floats
