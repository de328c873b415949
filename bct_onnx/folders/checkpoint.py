"""A folder with weights of PyTorch: it is exported on the way."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from bct_onnx.exporting import Recipe, export
from bct_onnx.exporting.checkpoint import task_of
from bct_onnx.folders.reading import ModelFolder


def exported(found: ModelFolder, folder: Path, recipe: Recipe | None = None) -> ModelFolder:
    """``found`` with a model that was exported into ``folder``; a decoder has its cache.

    Raises:
        UsageError: The extra ``bct-onnx[export]`` is missing.
        InputModelError: The checkpoint is unusable, or its exporter failed.
        GateError: The exported model computes something else than PyTorch.
    """
    inner = found.root / "0_Transformer"  # where old folders of sentence-transformers have it
    checkpoint = inner if (inner / "config.json").is_file() else found.root
    recipe = recipe or Recipe(cache=task_of(found.config.get("architectures") or ()) == "text-generation")
    file = folder / "model.onnx"
    export(checkpoint, file, recipe)
    return dataclasses.replace(found, models=(file,))
