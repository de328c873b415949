"""How `load` refuses, how `save` lays out its files, and what a folder holds afterwards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest

from bct_onnx import registry
from bct_onnx.errors import InputModelError
from bct_onnx.graph import save as module
from bct_onnx.graph.load import load
from bct_onnx.pipeline import Pipeline
from bct_onnx.rewriting import Options, rewrite


@pytest.fixture(scope="session")
def refusal() -> Callable[[Path | str], InputModelError]:
    """``refusal(path)``: the error with which `load` refuses the file, checked to be complete."""

    def refused(path: Path | str) -> InputModelError:
        with pytest.raises(InputModelError) as caught:
            load(path)
        error = caught.value
        assert error.exit_code == 3
        assert all(part for part in (error.what, error.where, error.fix)), error
        assert str(Path(path).absolute()) in error.where
        return error

    return refused


@pytest.fixture
def split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write weights to a data file whatever their size."""
    monkeypatch.setattr(module, "EMBEDDED", 0)


@pytest.fixture(params=["one file", "data file"])
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test twice: all in one file, and every tensor in a data file."""
    if request.param == "data file":
        monkeypatch.setattr(module, "EMBEDDED", 0)
        monkeypatch.setattr(module, "KEPT_INSIDE", 0)


@pytest.fixture(scope="session")
def hashes() -> Callable[..., dict[Path, str]]:
    """``hashes(*paths)``: the SHA-256 of each file."""
    return lambda *paths: {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture(scope="session")
def names() -> Callable[[Path], set[str]]:
    """``names(folder)``: the names of all that is in it."""
    return lambda folder: {path.name for path in folder.iterdir()}


@pytest.fixture
def two_layers(bundled_model: Path) -> Callable[[str, str], ir.Model]:
    """``two_layers(preset, target)``: what a preset makes of two layers of the bundled model, calibrated on next to
    nothing: every operator that it makes of the whole, and what stands between layers.
    """

    def get(preset: str, target: str) -> ir.Model:
        passes = list(registry.parse("normalize,fold-constants,drop-layers{keep=0|1}"))
        for each in registry.preset(preset):
            passes.append(each.replace(samples=2) if each.name == "calibrate" else each)
        model = load(bundled_model)
        rewrite(model, Pipeline(tuple(passes)), target=target, options=Options(check=False))
        return model

    return get
