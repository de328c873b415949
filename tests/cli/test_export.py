"""From a checkpoint to a checked file: every exporter, attention, opset and type."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from bct_onnx.exporting import Exported, Recipe, export, exporters
from bct_onnx.exporting.checkpoint import read

needs_export = pytest.mark.export
pytestmark = pytest.mark.filterwarnings("ignore")  # pytest sees the exporters' warnings before they can be captured
RunCli = Callable[..., subprocess.CompletedProcess[str]]
OpenSession = Callable[..., ort.InferenceSession]


@needs_export
@pytest.mark.parametrize("attention", ["default", "eager"])
@pytest.mark.parametrize("exporter", exporters.EXPORTERS)
def test_each_exporter(
    exporter: str, attention: str, small_export: Callable[..., Exported], ort_session: OpenSession
) -> None:
    done = small_export("bert", Recipe(exporter=exporter, attention=attention))
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
    exporter: str, small_export: Callable[..., Exported], checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    first = small_export("bert", Recipe(exporter=exporter)).files[0].read_bytes()
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
@pytest.mark.parametrize("recipe", [Recipe(), Recipe(cache=True), Recipe(exporter="dynamo")], ids=str)
def test_a_decoder(recipe: Recipe, small_export: Callable[..., Exported]) -> None:
    done = small_export("llama", recipe)
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
def test_the_command(run_cli: RunCli, checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    done = run_cli("export", checkpoint(), "-o", "model.onnx", "--attention", "eager")
    assert (done.returncode, done.stderr) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[1:])
    assert rows["exporter"] == "optimum" and rows["outputs"] == "logits [batch_size, 2]"
    assert rows["check"].startswith("largest difference to PyTorch ")
    assert rows["wrote"] == f"model.onnx ({(tmp_path / 'model.onnx').stat().st_size / 1e6:.1f} MB)"
    assert rows["next"] == "bct-onnx rewrite model.onnx -o model.bct.onnx"


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
