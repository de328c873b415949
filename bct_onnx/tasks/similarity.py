"""Semantic similarity: cosine of two sentence embeddings against human scores, as in the STS benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bct_onnx.errors import UsageError
from bct_onnx.tasks.extras import extra
from bct_onnx.tasks.readers import PAIR_COLUMNS, numbers, read_table
from bct_onnx.tasks.tokens import Array, Batch, TextTokenizer, Tokens


@dataclass(frozen=True)
class Similarity:
    """Pairs of sentences: all first ones, then all second ones; `scores` is float64 [pairs]."""

    tokens: Tokens
    scores: Array

    @staticmethod
    def load(
        data: Path,
        tokenizer: Path,
        *,
        text: Sequence[str] = (),
        label: str | None = None,
        max_length: int = 128,
        limit: int | None = None,
    ) -> Similarity:
        """Read a table of two sentences and a score.

        Raises:
            UsageError: The data or the tokenizer cannot be read.
        """
        table = read_table(data, [*text, *([label] if label else [])], limit)
        columns = tuple(text) or table.text_columns(PAIR_COLUMNS)
        if len(columns) != 2 or len(table.rows) < 2:
            raise UsageError("similarity needs two text columns and two rows", where=str(data), fix="--text A,B")
        name = label or table.label_column(2)
        sentences = [*table.column(columns[0]), *table.column(columns[1])]
        scores = numbers(table.column(name), data, name)
        return Similarity(TextTokenizer(tokenizer, max_length).encode(sentences), scores)

    def output(self, outputs: Mapping[str, int]) -> str:
        """`sentence_embedding`, else the first output with a vector per token, else the first with one per row."""
        for fits in (lambda n: n == "sentence_embedding", lambda n: outputs[n] in (3, -1), lambda n: outputs[n] == 2):
            found = next(filter(fits, outputs), None)
            if found is not None:
                return found
        raise UsageError("the model has no embedding output", why=f"outputs are {', '.join(outputs)}")

    def results(self, output: Array, batch: Batch) -> Iterable[Any]:
        """The embedding per row in float64: the mean over unmasked tokens of [rows, length, width]."""
        vectors: Array = output.astype(np.float64)
        if vectors.ndim == 2:
            return vectors
        weights = batch.mask[:, :, None].astype(np.float64)
        means: Array = (vectors * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1.0)
        return means

    def metrics(self, results: Sequence[Any]) -> dict[str, float]:
        """Spearman's and Pearson's correlation of cosine and score, x 100."""
        stats = extra("scipy.stats")
        vectors = np.stack(results)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        first, second = np.split(vectors / np.maximum(norms, 1e-12), 2)
        cosine = (first * second).sum(axis=1)
        return {
            "spearman": 100.0 * float(stats.spearmanr(cosine, self.scores).statistic),
            "pearson": 100.0 * float(stats.pearsonr(cosine, self.scores).statistic),
        }
