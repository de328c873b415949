"""ONNX Runtime itself, and nothing else: the loop that a program without a client would write, without its speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from generating import Generate, answer

Arrays = dict[str, np.ndarray]


def open_folder(folder: Path) -> Generate:
    """A decoder, or an encoder and its decoder with both of its branches in one file."""
    if not (folder / "encoder_model.onnx").is_file():
        decoder = _session(folder / "model.onnx")
        return lambda prompt, length: _continued(decoder, prompt, length, {})
    encoder = _session(folder / "encoder_model.onnx")
    decoder = _session(folder / "decoder_model_merged.onnx")

    def generate(prompt: list[int], length: int) -> list[int]:
        mask = np.ones((1, len(prompt)), np.int64)
        hidden = encoder.run(None, {"input_ids": np.array([prompt]), "attention_mask": mask})[0]
        encoded = {"encoder_hidden_states": hidden, "encoder_attention_mask": mask}
        return _continued(decoder, [0], length, encoded)  # by the configuration of our material texts begin with 0

    return generate


def _session(file: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options)


def _continued(decoder: onnxruntime.InferenceSession, prompt: list[int], length: int, encoded: Arrays) -> list[int]:
    """The likeliest tokens, one after the other; keys and values of the encoder's text are made in the first run."""
    cache = {each.name: _nothing(each) for each in decoder.get_inputs() if each.name.startswith("past_key_values")}
    names = [each.name for each in decoder.get_outputs()]
    known = {each.name for each in decoder.get_inputs()}
    added: list[int] = []
    tokens = prompt
    while len(added) < length:
        past = len(prompt) + len(added) - len(tokens)
        inputs = {
            "input_ids": np.array([tokens]),
            "attention_mask": np.ones((1, past + len(tokens)), np.int64),
            "position_ids": np.arange(past, past + len(tokens))[None],
            "use_cache_branch": np.array([past > 0]),
        }
        feeds = {name: value for name, value in (inputs | encoded).items() if name in known}
        results: dict[str, Any] = dict(zip(names, decoder.run(None, feeds | cache), strict=True))
        for name in cache:
            present = results[name.replace("past_key_values", "present")]
            if not (past and ".encoder." in name):
                cache[name] = present
        tokens = [int(results["logits"][0, -1].argmax())]
        added += tokens
    return added


def _nothing(cached: onnxruntime.NodeArg) -> np.ndarray:
    """The cache of no tokens: batch, heads, tokens, channels."""
    heads, channels = cached.shape[1], cached.shape[3]
    return np.zeros((1, heads, 0, channels), np.float32)


answer("onnxruntime", "optimum", "onnxruntime", open_folder)
