"""The bundled model is small, whole, trained, and can be made again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from models import bundle

OpenSession = Callable[..., ort.InferenceSession]


def logits(session: ort.InferenceSession, ids: list[list[int]]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Output [batch, 2] for rows of token ids of any lengths, padded on the right."""
    length = max(map(len, ids))
    padded = np.array([row + [0] * (length - len(row)) for row in ids], np.int64)
    mask = np.array([[1] * len(row) + [0] * (length - len(row)) for row in ids], np.int64)
    feeds = {"input_ids": padded, "attention_mask": mask, "token_type_ids": np.zeros_like(padded)}
    return np.asarray(session.run(["logits"], feeds)[0])


def test_the_model_is_one_small_float32_file(bundled_model: Path) -> None:
    onnx.checker.check_model(bundled_model, full_check=True)
    assert bundled_model.stat().st_size < 10_000_000
    model = onnx.load(bundled_model, load_external_data=False)
    tables = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 2]
    assert {tensor.data_type for tensor in tables} == {onnx.TensorProto.FLOAT}
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)
    assert sum(int(np.prod(tensor.dims)) for tensor in tables) > 1_300_000


def test_inputs_and_outputs(bundled_model: Path, ort_session: OpenSession) -> None:
    session = ort_session(bundled_model)
    inputs = [(value.name, value.type, value.shape) for value in session.get_inputs()]
    shape = ["batch_size", "sequence_length"]
    assert inputs == [(name, "tensor(int64)", shape) for name in ("input_ids", "attention_mask", "token_type_ids")]
    assert [(value.name, value.shape) for value in session.get_outputs()] == [("logits", ["batch_size", 2])]


def test_it_tells_praise_from_blame(bundled_model: Path, ort_session: OpenSession) -> None:
    vocabulary = json.loads((bundled_model.parent / "tokenizer.json").read_text())["model"]["vocab"]
    praise = ["a brilliant and funny film", "wonderful", "great performances"]
    blame = ["a boring and awful film", "terrible", "this is a waste of time"]
    ids = [[vocabulary[word] for word in text.split()] for text in praise + blame]
    assert logits(ort_session(bundled_model), ids).argmax(axis=1).tolist() == [1, 1, 1, 0, 0, 0]


def test_nothing_in_the_folder_names_the_machine_it_was_made_on(bundled_model: Path) -> None:
    names = {file.name for file in bundled_model.parent.iterdir()}
    assert names == {"README.md", "config.json", "model.onnx", "tokenizer.json", "tokenizer_config.json"}
    for file in bundled_model.parent.iterdir():
        assert not any(
            word in file.read_bytes()
            for word in (b"site-packages", bytes(Path.home()), bytes(bundled_model.parents[3]))
        )


@pytest.mark.whole
def test_usage(tmp_path: Path) -> None:
    file = Path(str(bundle.__file__))
    env = {**os.environ, "PYTHONPATH": str(file.parents[1])}
    for arguments, code, said in (([], 2, "usage: "), ([tmp_path], 3, "the checkpoint has no config.json")):
        command = [sys.executable, str(file), *map(str, arguments)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=env)
        assert done.returncode == code and said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.export
@pytest.mark.real
@pytest.mark.filterwarnings("ignore")  # pytest sees the exporters' warnings before they can be captured
def test_it_can_be_made_again(real_dir: Path, bundled_model: Path, tmp_path: Path, ort_session: OpenSession) -> None:
    done = bundle.bundle(real_dir / "models" / "tiny-bert-sst2", tmp_path / "again")
    assert done.difference < 1e-5
    for name in bundle.SIDE_FILES:
        assert (tmp_path / "again" / name).read_bytes() == (bundled_model.parent / name).read_bytes()
    ids = np.random.default_rng(0).integers(5, 6000, (4, 24)).tolist()
    again, bundled = (logits(ort_session(file), ids) for file in (tmp_path / "again" / "model.onnx", bundled_model))
    np.testing.assert_allclose(again, bundled, atol=1e-5)
