"""OpenVINO: ``Core().compile_model(FILE, "CPU")``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
from asking import Run, answer


def open_file(folder: Path, file: str) -> Run:
    """A model on one thread."""
    model = openvino.Core().compile_model(folder / file, "CPU", {"INFERENCE_NUM_THREADS": 1})

    def run(feeds: dict[str, np.ndarray]) -> np.ndarray:
        output: np.ndarray = model(feeds)[0]
        return output

    return run


answer("openvino", "openvino", open_file)
