"""sentence-transformers: ``SentenceTransformer(FOLDER, backend="onnx", model_kwargs={"file_name": ...})``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from asking import Run, answer
from sentence_transformers import SentenceTransformer


def open_file(folder: Path, file: str) -> Run:
    """A model on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    settings = {"file_name": file, "provider": "CPUExecutionProvider", "session_options": options}
    model = SentenceTransformer(str(folder), backend="onnx", model_kwargs=settings)

    def run(feeds: dict[str, np.ndarray]) -> np.ndarray:
        inputs = {name: torch.from_numpy(value) for name, value in feeds.items()}
        return model[0](inputs)["token_embeddings"].numpy()

    return run


answer("sentence-transformers", "sentence-transformers", open_file)
