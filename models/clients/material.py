"""The files that clients are tried with: one model as it came and compressed, each in a folder that clients load."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnxruntime.quantization import QuantType, quantize_dynamic

from bct_onnx import Options, rewrite
from bct_onnx.graph.load import load
from bct_onnx.runtime.session import run, session
from bct_onnx.runtime.understanding import Sampler

FP32, DYNAMIC = "fp32", "quantize_dynamic"

OURS = {
    "bct-plus": ("bct-plus", "ort-cpu"),
    "fast": ("fast", "ort-cpu"),
    "web": ("", "web"),
    "webgpu": ("", "webgpu"),
    "portable": ("", "portable"),
    "openvino": ("", "openvino"),
}
"""Preset (of the target, where empty) and target of each file of ours, by the name of its folder."""

SHAPES = {"1x16": (1, 16), "8x64": (8, 64)}
"""Batch and tokens of the inputs."""

MODEL = Path("onnx/model_quantized.onnx")
"""Where transformers.js looks for "q8"; the other clients are told."""


def make(folder: Path, checkpoint: Path, names: list[str]) -> None:
    """Make what is not there yet of the files called ``names``, of the checkpoint's folder.

    Args:
        folder: Where they are kept; ``native/`` has what ONNX Runtime gives here, ``material.json`` the inputs.
        checkpoint: A sentence-transformers model: its configuration, tokenizer and weights.
        names: Of `OURS`; the source and ONNX Runtime's own quantization are made in any case.
    """
    source = folder / FP32 / MODEL
    for name in (FP32, DYNAMIC, *names):
        file = folder / name / MODEL
        if file.is_file():
            continue
        with _folder(folder / name, checkpoint):
            _write(name, source, file, checkpoint)
    feeds = _feeds(source)
    for name in (FP32, DYNAMIC, *names):
        _native(folder, name, feeds)
    cases = {
        case: {key: {"dims": value.shape, "data": value.ravel().tolist()} for key, value in inputs.items()}
        for case, inputs in feeds.items()
    }
    told = {"files": [FP32, DYNAMIC, *names], "cases": cases}
    (folder / "material.json").write_text(json.dumps(told), encoding="utf-8")


@contextlib.contextmanager
def _folder(place: Path, checkpoint: Path) -> Iterator[None]:
    """A model's folder, with everything of the checkpoint but its weights."""
    skipped = shutil.ignore_patterns("*.safetensors", "*.bin", "*.py", "__pycache__")
    shutil.copytree(checkpoint, place, ignore=skipped, dirs_exist_ok=True)
    (place / MODEL.parent).mkdir(exist_ok=True)
    yield


def _write(name: str, source: Path, file: Path, checkpoint: Path) -> None:
    if name == FP32:
        from bct_onnx.exporting import Recipe, export

        export(checkpoint, file, Recipe(exporter="optimum"))
    elif name == DYNAMIC:
        quantize_dynamic(source, file, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
    else:
        preset, target = OURS[name]
        rewrite(source, preset or None, target=target, options=Options(output=file))


def _feeds(source: Path) -> dict[str, dict[str, np.ndarray]]:
    sampler = Sampler(load(source), session(source))
    return {name: dict(sampler.sample(*shape, seed=11)) for name, shape in SHAPES.items()}


def _native(folder: Path, name: str, feeds: dict[str, dict[str, np.ndarray]]) -> None:
    """What ONNX Runtime gives here, on one thread."""
    native = folder / "native"
    native.mkdir(exist_ok=True)
    runner = session(folder / name / MODEL)
    for case, inputs in feeds.items():
        output = run(runner, inputs)[0]
        (native / f"{name}.{case}.bin").write_bytes(np.ascontiguousarray(output, np.float32).tobytes())
