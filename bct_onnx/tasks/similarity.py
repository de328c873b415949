"""Semantic similarity: cosine of two sentence embeddings against human scores, as in the STS benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bct_onnx.errors import UsageError
from bct_onnx.tasks.embeddings import Embeddings, pooling_of, units
from bct_onnx.tasks.extras import extra
from bct_onnx.tasks.labelled import LabelledTexts
from bct_onnx.tasks.readers import PAIR_COLUMNS, numbers
from bct_onnx.tasks.tokens import Array, Tokens


@dataclass(frozen=True)
class Similarity(Embeddings):
    """Pairs of sentences: all first ones, then all second ones; `scores` is float64 [pairs]."""

    tokens: Tokens
    scores: Array
    pooling: str = "mean"

    @staticmethod
    def load(source: LabelledTexts, pooling: str | None = None) -> Similarity:
        """Read a table of two sentences and a score.

        Args:
            source: The pairs; two text columns, by default the usual ones.
            pooling: One of `bct_onnx.tasks.embeddings.POOLINGS`; by default what `1_Pooling/config.json` beside the
                tokenizer says, else mean.

        Raises:
            UsageError: The data or the tokenizer cannot be read, or the pooling is unknown.
        """
        table = source.table()
        columns = tuple(source.text) or table.text_columns(PAIR_COLUMNS)
        if len(columns) != 2 or len(table.rows) < 2:
            raise UsageError("similarity needs two text columns and two rows", where=str(source.data), fix="--text A,B")
        name = source.label or table.label_column(2)
        sentences = [*table.column(columns[0]), *table.column(columns[1])]
        scores = numbers(table.column(name), table.path, name)
        tokens = source.encoder().encode(sentences)
        return Similarity(tokens, scores, pooling_of(source.tokenizer, pooling))

    def metrics(self, results: Sequence[Any]) -> dict[str, float]:
        """Spearman's and Pearson's correlation of cosine and score, x 100."""
        first, second = np.split(units(results), 2)
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
