"""Does the exported file compute what PyTorch computes, at shapes it was not traced with?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bct_onnx.errors import GateError, InputModelError
from bct_onnx.exporting.checkpoint import Checkpoint
from bct_onnx.exporting.recipe import Recipe
from bct_onnx.graph.known import sized
from bct_onnx.graph.names import names_of
from bct_onnx.runtime.session import run
from bct_onnx.runtime.session import session as open_session

TOLERANCE = {"fp32": 1e-3, "fp16": 5e-2}
"""Largest difference to PyTorch that passes, times the largest absolute output where that is above 1."""

SHAPES = ((1, 7, 0), (3, 11, 4))
"""Batch, length and padding of the samples; none is the shape the exporters trace."""


Arrays = dict[str, Any]
"""Arrays by the names of inputs or outputs."""


def compared(file: Path, source: Checkpoint, recipe: Recipe) -> float:
    """Compare every output that both have, by name.

    A model with a cache is run in two steps, the second one on the keys and values of the first.

    Returns:
        Largest absolute difference.

    Raises:
        GateError: It is above `TOLERANCE`.
        InputModelError: No output has a name that PyTorch uses, or an input is of an unknown kind.
        TargetError: ONNX Runtime cannot load or run the file.
    """
    session = open_session(file, optimize="basic")
    return _compared(lambda inputs: _run(session, source, inputs), source, recipe)


def compared_parts(encoder: Path, decoder: Path, source: Checkpoint, recipe: Recipe) -> float:
    """Compare the logits of an encoder and its decoder, whose second step goes on with the cache of the first.

    Returns:
        Largest absolute difference.

    Raises:
        GateError, InputModelError, TargetError: As `compared` does.
    """
    encoding, decoding = open_session(encoder, optimize="basic"), open_session(decoder, optimize="basic")

    def run_parts(inputs: Arrays) -> Arrays:
        tokens = inputs.pop("decoder_input_ids")
        states = {"encoder_hidden_states": _step(encoding, inputs)["last_hidden_state"]}
        if "attention_mask" in inputs:
            states["encoder_attention_mask"] = inputs["attention_mask"]
        half = tokens.shape[1] // 2
        first = _step(decoding, {**states, **_empty_cache(decoding, len(tokens)), "input_ids": tokens[:, :half]})
        cache = {name.replace("present", "past_key_values"): value for name, value in first.items()}
        cache["use_cache_branch"] = np.array([True])
        second = _step(decoding, {**states, **cache, "input_ids": tokens[:, half:]})
        return {"logits": np.concatenate([first["logits"], second["logits"]], axis=1)}

    return _compared(run_parts, source, recipe)


def _empty_cache(session: Any, batch: int) -> Arrays:
    """What the first step of a merged decoder gets, which does not read it: one place for each free length."""
    cache: Arrays = {"use_cache_branch": np.array([False])}
    for value in session.get_inputs():
        if value.name.startswith("past_key_values."):
            cache[value.name] = np.zeros((batch, *sized(value.shape[1:], 1)), np.float32)
    return cache


def _compared(run_model: Callable[[Arrays], Arrays], source: Checkpoint, recipe: Recipe) -> float:
    difference, peak, names = 0.0, 1.0, set[str]()
    for batch, length, padded in SHAPES:
        inputs = source.sample(batch, length, padded)
        expected = source.run(inputs)
        actual = run_model({name: value.numpy() for name, value in inputs.items()})
        names.update(actual)
        for name in expected.keys() & actual.keys():
            distances = np.abs(expected[name] - actual[name].astype(np.float32))
            difference = max(difference, float(np.nan_to_num(distances, nan=np.inf).max()))
            peak = max(peak, float(np.max(np.abs(expected[name]))))
    if not names & expected.keys():
        raise InputModelError("no output of the exported model has a name that PyTorch knows", where=", ".join(names))
    allowed = TOLERANCE[recipe.dtype] * peak
    if difference > allowed:
        raise GateError(
            "the exported model does not compute what PyTorch computes",
            where=f"largest difference {difference:.3g}, allowed {allowed:.3g}",
            fix="try another --exporter or --attention",
        )
    return difference


def _run(session: Any, source: Checkpoint, inputs: Arrays) -> Arrays:
    past = {value.name: value for value in session.get_inputs() if value.name.startswith("past_key_values.")}
    if not past:
        return _step(session, _columns(inputs, 0, None))
    config, batch = source.model.config, len(inputs["input_ids"])
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    dtype = np.float16 if next(iter(past.values())).type == "tensor(float16)" else np.float32
    cache = {name: np.zeros((batch, heads, 0, width), dtype) for name in past}
    half = inputs["input_ids"].shape[1] // 2
    first = _step(session, _columns(inputs, 0, half) | cache)
    cache = {name: first[name.replace("past_key_values", "present")] for name in past}
    second = _step(session, _columns(inputs, half, None) | cache)
    return {name: np.concatenate([first[name], second[name]], axis=1) for name in first if name == "logits"}


def _columns(inputs: Arrays, start: int, stop: int | None) -> Arrays:
    """The tokens from ``start`` to ``stop``, with the attention mask of all before ``stop`` and their positions."""
    part = {name: value[:, start:stop] for name, value in inputs.items()}
    part["attention_mask"] = inputs["attention_mask"][:, :stop]
    part["position_ids"] = np.broadcast_to(np.arange(inputs["input_ids"].shape[1]), inputs["input_ids"].shape)[
        :, start:stop
    ]
    return part


def _step(session: Any, have: Arrays) -> Arrays:
    try:
        feeds = {value.name: np.ascontiguousarray(have[value.name]) for value in session.get_inputs()}
    except KeyError as error:
        raise InputModelError("the exported model has an input this tool cannot fill", where=str(error)) from error
    names = names_of(session.get_outputs())
    return dict(zip(names, run(session, feeds, names), strict=True))
