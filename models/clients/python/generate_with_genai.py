"""onnxruntime-genai: ``Model(FOLDER)``, ``Generator(model, parameters)``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime_genai
from generating import Generate, answer


def open_folder(folder: Path) -> Generate:
    """A decoder on one thread; its configuration says which search, a greedy one."""
    config = onnxruntime_genai.Config(str(folder))
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": 1}}}}))
    model = onnxruntime_genai.Model(config)

    def generate(prompt: list[int], length: int) -> list[int]:
        parameters = onnxruntime_genai.GeneratorParams(model)
        parameters.set_search_options(max_length=len(prompt) + length, min_length=len(prompt) + length)
        generator = onnxruntime_genai.Generator(model, parameters)
        generator.append_tokens(np.array([prompt], np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        return [int(token) for token in generator.get_sequence(0)[len(prompt) :]]

    return generate


answer("genai", "genai", "onnxruntime-genai", open_folder)
