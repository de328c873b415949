"""The data file beside a model: named by its content, shared by nobody, removed with the model that it belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from bct_onnx.graph import save as module
from bct_onnx.graph.load import files, load
from bct_onnx.graph.save import save
from tests.graph.handmade import external, weights, write

Names = Callable[[Path], set[str]]
Session = Callable[..., ort.InferenceSession]


@pytest.mark.usefixtures("split")
def test_one_data_file_named_by_its_content(tmp_path: Path, ort_session: Session, names: Names) -> None:
    proto = weights()
    add = numpy_helper.from_array(np.ones((50, 50), np.float32), "unaligned")
    proto.graph.initializer.extend([numpy_helper.from_array(np.array([1.0, 2.0], np.float32), "small"), add])
    proto.graph.node.append(helper.make_node("Add", ["y", "small"], ["z"]))
    proto.graph.node.append(helper.make_node("ReduceSum", ["unaligned"], ["s"]))
    proto.graph.node.append(helper.make_node("Add", ["z", "s"], ["q"]))
    proto.graph.output[0].name = "q"
    source = write(proto, tmp_path / "in.onnx")
    path, data = save(load(source), tmp_path / "out.onnx")
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    assert data.name == f"out.onnx.{digest[:8]}.data"
    assert names(tmp_path) == {"in.onnx", "out.onnx", data.name}
    tensors = {t.name: t for t in onnx.load(path, load_external_data=False).graph.initializer}
    assert len(tensors["small"].raw_data) == 8
    for name in ("w", "unaligned"):
        entries = {entry.key: entry.value for entry in tensors[name].external_data}
        assert entries["location"] == data.name
        assert int(entries["offset"]) % 4096 == 0
    onnx.checker.check_model(str(path))
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 1000), dtype=np.float32)}
    assert np.array_equal(ort_session(source).run(None, feeds)[0], ort_session(path).run(None, feeds)[0])


@pytest.mark.usefixtures("split")
def test_force_leaves_one_pair_and_no_old_data(tmp_path: Path, names: Names) -> None:
    first, second = (load(write(weights(seed), tmp_path / f"{seed}.onnx")) for seed in (1, 2))
    _, old = save(first, tmp_path / "out.onnx")
    _, new = save(second, tmp_path / "out.onnx", force=True)
    assert names(tmp_path) == {"1.onnx", "2.onnx", "out.onnx", new.name}
    assert files(tmp_path / "out.onnx") == (tmp_path / "out.onnx", new)
    assert old != new
    assert save(second, tmp_path / "out.onnx", force=True)[1] == new
    assert files(tmp_path / "out.onnx")[1] == new


def test_force_from_two_files_to_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: Names) -> None:
    loaded = load(write(weights(), tmp_path / "in.onnx"))
    with monkeypatch.context() as context:
        context.setattr(module, "EMBEDDED", 0)
        save(loaded, tmp_path / "out.onnx")
    save(loaded, tmp_path / "out.onnx", force=True)
    assert names(tmp_path) == {"in.onnx", "out.onnx"}


@pytest.mark.usefixtures("split")
def test_data_of_other_models_stay(tmp_path: Path) -> None:
    first, second = (load(write(weights(seed), tmp_path / f"{seed}.onnx")) for seed in (1, 2))
    path, data = save(first, tmp_path / "out.onnx")
    path.rename(tmp_path / "kept.onnx")
    save(second, tmp_path / "out.onnx")
    save(first, tmp_path / "out.onnx", force=True)
    assert files(tmp_path / "kept.onnx")[1] == data
    foreign = external(tmp_path / "other.onnx", "weights.bin")
    save(second, foreign, force=True)
    assert (tmp_path / "weights.bin").exists()


@pytest.mark.usefixtures("split")
def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    (tmp_path / "normal").touch()
    written = save(load(write(weights(), tmp_path / "in.onnx")), tmp_path / "out.onnx")
    assert {path.stat().st_mode for path in written} == {(tmp_path / "normal").stat().st_mode}
