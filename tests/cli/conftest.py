"""Tiny checkpoints with random weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

SMALL = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``checkpoint(family, loader, half=False)``: folder of a tiny model with random weights."""
    folder = tmp_path_factory.mktemp("checkpoints")

    @functools.cache
    def make(family: str = "bert", loader: str = "AutoModelForSequenceClassification", half: bool = False) -> Path:
        import torch
        import transformers

        torch.manual_seed(0)
        model = getattr(transformers, loader).from_config(transformers.AutoConfig.for_model(family, **SMALL))
        place = folder / f"{family}-{loader}-{half}"
        (model.half() if half else model).save_pretrained(place)
        return place

    return make
