"""What lies in a model folder: models to rewrite, files to copy, and files that have no use in the result."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from bct_onnx.errors import InputModelError
from bct_onnx.folders.layouts import is_variant
from bct_onnx.graph import load

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".ckpt", ".ot", ".gguf")
"""Endings of files that hold the same weights for another framework."""

RUNTIMES = ("openvino", "coreml", "tflite", "tensorrt", "gguf")
"""Subfolders with the model for another runtime."""

CARD, RECORD = "README.md", "bct_onnx.json"
"""The model card, and the reports of what was done, by which a folder that this tool wrote is known again."""


@dataclasses.dataclass(frozen=True)
class ModelFolder:
    """A folder as it was found. All paths are relative to ``root``, but for models that were exported elsewhere.

    Attributes:
        root: The folder.
        layout: Name of the layout it is in.
        models: Models in floating point, to be rewritten.
        files: Configurations, tokenizers and whatever else is to be copied as it is.
        left: Files that the result does without, and why.
        config: What ``config.json`` says.
    """

    root: Path
    layout: str
    models: tuple[Path, ...]
    files: tuple[Path, ...]
    left: dict[Path, str]
    config: dict[str, Any]

    @property
    def is_checkpoint(self) -> bool:
        """Whether there are weights of PyTorch and no model in ONNX."""
        return not self.models and any(path.suffix in (".safetensors", ".bin") for path in self.left)

    @property
    def pools_by_mask(self) -> bool:
        """Whether sentence-transformers makes one vector of a text's tokens, which reads none that the mask hides."""
        modules = _read(self.root / "modules.json")
        second = modules[1] if isinstance(modules, list) and len(modules) > 1 else {}
        return isinstance(second, dict) and str(second.get("type", "")).endswith("Pooling")


def read(root: Path) -> ModelFolder:
    """Look through a folder.

    Raises:
        InputModelError: There is no model in it, or its configuration cannot be read.
    """
    every = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file() and not _hidden(path, root))
    onnx = [path for path in every if path.suffix == ".onnx"]
    models = _models(onnx, root)
    data: set[Path] = set()
    for model in onnx:
        data.update(file.relative_to(root) for file in _data(root / model, root))
    left: dict[Path, str] = {}
    for path in every:
        if path in models:
            continue
        if path.suffix == ".onnx":
            left[path] = "made of another model in the folder"
        elif path in data:
            left[path] = "weights of a model in ONNX"
        elif path.parts[0] in RUNTIMES:
            left[path] = "for another runtime"
        elif path.suffix in WEIGHTS or path.name.endswith(".index.json"):
            left[path] = "the weights for another framework"
        elif path.name in (CARD, RECORD):
            left[path] = "written anew"
    files = tuple(path for path in every if path not in left and path not in models)
    config = _json(root / "config.json") or _json(root / "0_Transformer" / "config.json")
    found = ModelFolder(root, _layout(root, models), models, files, left, config)
    if not models and not found.is_checkpoint:
        raise InputModelError(
            "the folder has no model",
            where=str(root),
            why="neither a file .onnx nor a checkpoint with config.json was found",
            fix="give the folder that a model was exported or downloaded to",
        )
    return found


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _models(onnx: list[Path], root: Path) -> tuple[Path, ...]:
    """The models to rewrite: those that are not variants of another, in the folder that clients look in first."""
    plain = [path for path in onnx if not is_variant(path.name)]
    filename = _json(root / "genai_config.json").get("model", {}).get("decoder", {}).get("filename")
    if filename and Path(filename) in onnx:
        return (Path(filename),)
    return tuple([path for path in plain if path.parent.name == "onnx"] or plain)


def _data(model: Path, root: Path) -> list[Path]:
    """Files of external data of a model that lie in the folder."""
    try:
        files = load.files(model)[1:]
    except InputModelError:  # it is told where the model itself is loaded
        return []
    return [file for file in files if file.is_relative_to(root)]


def _layout(root: Path, models: tuple[Path, ...]) -> str:
    if (root / "genai_config.json").is_file():
        return "genai"
    if (root / "modules.json").is_file():
        return "sentence-transformers"
    if any(model.parent.name == "onnx" for model in models):
        return "transformers.js"
    return "optimum"


def _json(path: Path) -> dict[str, Any]:
    """An object of a JSON file; empty where there is none.

    Raises:
        InputModelError: The file is not JSON.
    """
    value = _read(path)
    if isinstance(value, dict):
        return value
    return {}


def _read(path: Path) -> Any:
    """What a JSON file says; an empty list where there is none.

    Raises:
        InputModelError: The file is not JSON.
    """
    if not path.is_file():
        return []
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputModelError("a configuration cannot be read", where=str(path), why=str(error)) from error
