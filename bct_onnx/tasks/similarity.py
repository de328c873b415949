"""Semantic similarity: cosine of two sentence embeddings against human scores, as in the STS benchmark."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bct_onnx.errors import UsageError
from bct_onnx.tasks.extras import extra
from bct_onnx.tasks.labelled import LabelledTexts
from bct_onnx.tasks.readers import PAIR_COLUMNS, numbers
from bct_onnx.tasks.tokens import Array, Batch, Tokens

POOLINGS = ("mean", "first", "last")


@dataclass(frozen=True)
class Similarity:
    """Pairs of sentences: all first ones, then all second ones; `scores` is float64 [pairs]."""

    tokens: Tokens
    scores: Array
    pooling: str = "mean"
    logits = False

    @staticmethod
    def load(source: LabelledTexts, pooling: str | None = None) -> Similarity:
        """Read a table of two sentences and a score.

        Args:
            source: The pairs; two text columns, by default the usual ones.
            pooling: One of `POOLINGS`; by default what `1_Pooling/config.json` beside the tokenizer says, else mean.

        Raises:
            UsageError: The data or the tokenizer cannot be read, or the pooling is unknown.
        """
        table = source.table()
        columns = tuple(source.text) or table.text_columns(PAIR_COLUMNS)
        if len(columns) != 2 or len(table.rows) < 2:
            raise UsageError("similarity needs two text columns and two rows", where=str(source.data), fix="--text A,B")
        if pooling not in (None, *POOLINGS):
            raise UsageError(f"unknown pooling '{pooling}'", where="--pooling", fix=f"use {', '.join(POOLINGS)}")
        name = source.label or table.label_column(2)
        sentences = [*table.column(columns[0]), *table.column(columns[1])]
        scores = numbers(table.column(name), table.path, name)
        tokens = source.encoder().encode(sentences)
        return Similarity(tokens, scores, pooling or usual_pooling(source.tokenizer))

    def output(self, outputs: Mapping[str, int]) -> str:
        """`sentence_embedding`, else the first output with a vector per token, else the first with one per row."""
        for fits in (lambda n: n == "sentence_embedding", lambda n: outputs[n] in (3, -1), lambda n: outputs[n] == 2):
            found = next(filter(fits, outputs), None)
            if found is not None:
                return found
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

    def metrics(self, results: Sequence[Any]) -> dict[str, float]:
        """Spearman's and Pearson's correlation of cosine and score, x 100."""
        vectors = np.stack(results)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        first, second = np.split(vectors / np.maximum(norms, 1e-12), 2)
        return correlations((first * second).sum(axis=1), self.scores)


def correlations(predicted: Array, scores: Array) -> dict[str, float]:
    """Spearman's and Pearson's correlation, x 100; NaN where a figure is not finite or all are the same."""
    stats = extra("scipy.stats")
    if not np.isfinite(predicted).all() or np.ptp(predicted) == 0.0 or np.ptp(scores) == 0.0:
        return {"spearman": float("nan"), "pearson": float("nan")}
    return {
        "spearman": 100.0 * float(stats.spearmanr(predicted, scores).statistic),
        "pearson": 100.0 * float(stats.pearsonr(predicted, scores).statistic),
    }


def usual_pooling(folder: Path) -> str:
    """What a sentence-transformers checkpoint says about itself."""
    config = folder / "1_Pooling" / "config.json"
    told = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    if told.get("pooling_mode_cls_token"):
        return "first"
    return "last" if told.get("pooling_mode_lasttoken") else "mean"
