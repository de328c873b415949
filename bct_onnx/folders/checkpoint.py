"""A folder with weights of PyTorch: it is exported on the way."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from bct_onnx.exporting import Recipe, export, export_parts
from bct_onnx.exporting.checkpoint import WITH_ENCODER, task_of
from bct_onnx.folders.reading import ModelFolder


def exported(found: ModelFolder, folder: Path) -> ModelFolder:
    """``found`` with models that were exported into ``folder``: one, or the parts of an encoder-decoder.

    A decoder has its cache.

    Raises:
        UsageError: The extra ``bct-onnx[export]`` is missing, or cannot export this model.
        InputModelError: The checkpoint is unusable, or its exporter failed.
        GateError: The exported model computes something else than PyTorch.
    """
    inner = found.root / "0_Transformer"  # where old folders of sentence-transformers have it
    checkpoint = inner if (inner / "config.json").is_file() else found.root
    task = task_of(found.config.get("architectures") or ())
    if task in WITH_ENCODER:
        return dataclasses.replace(found, models=export_parts(checkpoint, folder, Recipe(cache=True)))
    file = folder / "model.onnx"
    export(checkpoint, file, Recipe(cache=task == "text-generation"))
    return dataclasses.replace(found, models=(file,))
