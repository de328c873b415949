"""optimum: ``ORTModelForFeatureExtraction.from_pretrained(FOLDER, file_name=...)``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from asking import Run, answer
from optimum.onnxruntime import ORTModelForFeatureExtraction


def open_file(folder: Path, file: str) -> Run:
    """A model on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    subfolder, name = file.split("/")
    model = ORTModelForFeatureExtraction.from_pretrained(
        folder, subfolder=subfolder, file_name=name, session_options=options
    )

    def run(feeds: dict[str, np.ndarray]) -> np.ndarray:
        inputs = {name: torch.from_numpy(value) for name, value in feeds.items()}
        return model(**inputs).last_hidden_state.numpy()

    return run


answer("optimum", "optimum-onnx", open_file)
