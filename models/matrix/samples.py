"""What a file is run on: other shapes than those the exporter traced, padding, and a step with a past."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bct_onnx.graph.load import load
from bct_onnx.runtime.feeds import Feeds, random_feeds
from bct_onnx.runtime.inputs import Input, inputs_of
from bct_onnx.runtime.vocabulary import vocabulary
from models.matrix.building import FRAMES

SHAPES = ((1, 7, False, 0), (3, 12, True, 0), (2, 3, False, 5))
"""Batch, length, padding and past of the samples; the last one is for models with a cache alone."""


def samples_of(file: Path, *, texts: int | None = None) -> list[Feeds]:
    """Samples for the inputs that a file declares, of so many texts each."""
    model = load(file)
    declared = inputs_of(model)
    vocab = vocabulary(model)
    has_past = any("past" in one.name for one in declared)
    shapes = [shape for shape in SHAPES if has_past or not shape[-1]]
    return [
        _one(declared, vocab, seed, texts or batch, length, padded, past)
        for seed, (batch, length, padded, past) in enumerate(shapes)
    ]


def _one(
    declared: tuple[Input, ...], vocab: Mapping[str, int], seed: int, batch: int, length: int, padded: bool, past: int
) -> Feeds:
    named = [_sized(one, length) for one in declared]
    made = random_feeds(named, batch=batch, sequence=length, seed=seed, vocab=vocab, padding=padded, past=past)
    branch = [name for name in made if "use_cache_branch" in name]
    return made | {name: np.full_like(made[name], past > 0) for name in branch}


def _sized(one: Input, length: int) -> Input:
    """Sound as long as the other inputs: a whole second is long for the tiny convolutions here."""
    is_sound = one.name == "input_values" and len(one.shape) == 2
    return dataclasses.replace(one, shape=(one.shape[0], FRAMES * length)) if is_sound else one
