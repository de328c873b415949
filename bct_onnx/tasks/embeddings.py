"""One vector for each text: which output it comes from, and how it is pooled. Tasks on vectors are made of this."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bct_onnx.errors import UsageError
from bct_onnx.tasks.settings import settings
from bct_onnx.tasks.tokens import Array, Batch

POOLINGS = ("mean", "first", "last")


class Embeddings:
    """What tasks on vectors have in common; `pooling` is one of `POOLINGS`."""

    pooling: str
    logits = False

    def output(self, outputs: Mapping[str, int]) -> str:
        """`sentence_embedding`, else the first output with a vector per token, else the first with one per row."""
        for fits in (lambda n: n == "sentence_embedding", lambda n: outputs[n] in (3, -1), lambda n: outputs[n] == 2):
            output = next(filter(fits, outputs), None)
            if output is not None:
                return output
        raise UsageError("the model has no embedding output", why=f"outputs are {', '.join(outputs)}")

    def rows(self, output: Array, batch: Batch) -> Iterable[Array]:
        """The embedding [width] per sequence in float64: pooled over the unmasked tokens of [rows, length, width]."""
        vectors: Array = output.astype(np.float64)
        if vectors.ndim == 2:
            return vectors
        if self.pooling == "mean":
            weights = batch.mask[:, :, None].astype(np.float64)
            means: Array = (vectors * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1.0)
            return means
        place = 0 if self.pooling == "first" else np.maximum(batch.mask.sum(axis=1) - 1, 0)
        chosen: Array = vectors[np.arange(len(vectors)), place]
        return chosen

    def result(self, row: Array, index: int) -> Array:
        """The embedding as it is."""
        return row


def units(results: Sequence[Any]) -> Array:
    """Vectors of length 1, [texts, width] in float64."""
    vectors: Array = np.stack(results)
    unit: Array = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


def pooling_of(folder: Path, pooling: str | None) -> str:
    """The pooling that is wanted; by default what ``1_Pooling/config.json`` in the folder says, else the mean.

    Raises:
        UsageError: There is none of this name.
    """
    if pooling not in (None, *POOLINGS):
        raise UsageError(f"unknown pooling '{pooling}'", where="--pooling", fix=f"use {', '.join(POOLINGS)}")
    return pooling or usual_pooling(folder)


def usual_pooling(folder: Path) -> str:
    """What a sentence-transformers checkpoint says about itself."""
    pooling = settings(folder / "1_Pooling" / "config.json")
    if pooling.get("pooling_mode_cls_token"):
        return "first"
    if pooling.get("pooling_mode_lasttoken"):
        return "last"
    return "mean"
