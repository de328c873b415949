"""fastembed: ``TextEmbedding.add_custom_model(...)``, then ``TextEmbedding(name, specific_model_path=FOLDER)``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from asking import Run, answer
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType


def open_file(folder: Path, file: str) -> Run:
    """A model on one thread."""
    name = f"try/{folder.name}"
    TextEmbedding.add_custom_model(
        model=name,
        pooling=PoolingType.DISABLED,
        normalization=False,
        sources=ModelSource(hf=name),
        dim=384,
        model_file=file,
    )
    model = TextEmbedding(name, specific_model_path=str(folder), threads=1)

    def run(feeds: dict[str, np.ndarray]) -> np.ndarray:
        return model.model.model.run(None, feeds)[0]

    return run


answer("fastembed", "fastembed", open_file)
