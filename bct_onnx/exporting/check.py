"""Does the exported file compute what PyTorch computes, at shapes it was not traced with?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bct_onnx.errors import InputModelError
from bct_onnx.exporting.checkpoint import Checkpoint
from bct_onnx.graph.names import names_of
from bct_onnx.runtime.session import run
from bct_onnx.runtime.session import session as open_session

SHAPES = ((1, 7, 0), (3, 11, 4))
"""Batch, length and padding of the samples; none is the shape the exporters trace."""


def largest_difference(file: Path, source: Checkpoint) -> tuple[float, float]:
    """Compare every output that both have, by name.

    A model with a cache is run in two steps, the second one on the keys and values of the first.

    Returns:
        Largest absolute difference, and largest absolute value of PyTorch's outputs.

    Raises:
        InputModelError: No output has a name that PyTorch uses, or an input is of an unknown kind.
        TargetError: ONNX Runtime cannot load or run the file.
    """
    session = open_session(file, optimize="basic")
    differences, peaks = [], []
    for batch, length, padded in SHAPES:
        inputs = source.sample(batch, length, padded)
        expected = source.run(inputs)
        actual = _run(session, source, {name: value.numpy() for name, value in inputs.items()})
        for name in expected.keys() & actual.keys():
            differences.append(float(np.max(np.abs(expected[name] - actual[name].astype(np.float32)))))
            peaks.append(float(np.max(np.abs(expected[name]))))
    if not differences:
        names = ", ".join(names_of(session.get_outputs()))
        raise InputModelError("no output of the exported model has a name that PyTorch knows", where=names)
    return float(np.max(differences)), float(np.max(peaks))


def _run(session: Any, source: Checkpoint, inputs: dict[str, Any]) -> dict[str, Any]:
    past = {value.name: value for value in session.get_inputs() if value.name.startswith("past_key_values.")}
    if not past:
        return _step(session, inputs, {})
    config, batch = source.model.config, len(inputs["input_ids"])
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    dtype = np.float16 if next(iter(past.values())).type == "tensor(float16)" else np.float32
    cache = {name: np.zeros((batch, heads, 0, width), dtype) for name in past}
    half = inputs["input_ids"].shape[1] // 2
    first = _step(session, _columns(inputs, 0, half), cache)
    cache = {name: first[name.replace("past_key_values", "present")] for name in past}
    second = _step(session, _columns(inputs, half, None), cache)
    return {name: np.concatenate([first[name], second[name]], axis=1) for name in first if name == "logits"}


def _columns(inputs: dict[str, Any], start: int, stop: int | None) -> dict[str, Any]:
    """The tokens from ``start`` to ``stop``, with the attention mask of all before ``stop`` and their positions."""
    part = {name: value[:, start:stop] for name, value in inputs.items()}
    part["attention_mask"] = inputs["attention_mask"][:, :stop]
    part["position_ids"] = np.broadcast_to(np.arange(inputs["input_ids"].shape[1]), inputs["input_ids"].shape)[
        :, start:stop
    ]
    return part


def _step(session: Any, inputs: dict[str, Any], cache: dict[str, Any]) -> dict[str, Any]:
    have = {**_columns(inputs, 0, None), **inputs, **cache}
    try:
        feeds = {value.name: np.ascontiguousarray(have[value.name]) for value in session.get_inputs()}
    except KeyError as error:
        raise InputModelError("the exported model has an input this tool cannot fill", where=str(error)) from error
    names = names_of(session.get_outputs())
    return dict(zip(names, run(session, feeds, names), strict=True))
