"""Retrieval: each query ranks all passages by the cosine of their embeddings, as in BEIR.

The data is a table with a row for each judgment: a query, a passage, and how relevant the passage is (0 is not at all;
without such a column every row is relevant). Queries and passages are told apart by their text. All passages of the
table are searched, those of other queries too; what nobody has judged counts as not relevant.

    query,passage,relevance
    how tall is mount everest,Everest rises to 8849 metres.,2
    how tall is mount everest,Everest was first climbed in 1953.,0
    who wrote faust,Goethe worked on Faust for sixty years.,1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bct_onnx.errors import UsageError
from bct_onnx.graph.names import places_of
from bct_onnx.tasks.embeddings import Embeddings, pooling_of, units
from bct_onnx.tasks.labelled import LabelledTexts
from bct_onnx.tasks.readers import PAIR_COLUMNS, QUERY_COLUMNS, RELEVANCE_COLUMNS, Table, numbers
from bct_onnx.tasks.tokens import Array, Tokens

CUT, DEEP = 10, 100
"""Places of a ranking that count, and those of a search whose results are ranked anew."""


@dataclass(frozen=True)
class Retrieval(Embeddings):
    """Queries, then passages; `gains` is float64 [queries, passages], 0 where a passage is not relevant."""

    tokens: Tokens
    gains: Array
    pooling: str = "mean"

    @staticmethod
    def load(source: LabelledTexts, pooling: str | None = None) -> Retrieval:
        """Read a table of judgments.

        Args:
            source: Queries and passages in two text columns, relevance in the label column; by default the usual ones.
            pooling: As for `bct_onnx.tasks.similarity.Similarity.load`.

        Raises:
            UsageError: The data or the tokenizer cannot be read, nothing is relevant, or the pooling is unknown.
        """
        table = source.table()
        columns = tuple(source.text) or table.text_columns((*QUERY_COLUMNS, *PAIR_COLUMNS))
        if len(columns) != 2:
            raise UsageError(
                "retrieval needs a query and a passage", where=str(source.data), fix="--text QUERY,PASSAGE"
            )
        query_texts, passage_texts = map(table.column, columns)
        queries, passages = _numbered(query_texts), _numbered(passage_texts)
        gains = np.zeros((len(queries), len(passages)))
        for query, passage, gain in zip(query_texts, passage_texts, _relevance(table, source.label), strict=True):
            gains[queries[query], passages[passage]] = max(gain, gains[queries[query], passages[passage]])
        if not (gains > 0).any():
            raise UsageError(
                "no passage is relevant to any query", where=str(source.data), fix="name the --label column"
            )
        tokens = source.encoder().encode([*queries, *passages])
        return Retrieval(tokens, gains, pooling_of(source.tokenizer, pooling))

    def metrics(self, results: Sequence[Any]) -> dict[str, float]:
        """NDCG of the first 10 places (gains as they are, ``log2(place + 1)``) and the share of the relevant passages
        that stand among the first 10 and 100, x 100: means over the queries that have a relevant passage."""
        vectors = units(results)
        if not np.isfinite(vectors).all():
            return dict.fromkeys((f"ndcg@{CUT}", f"recall@{CUT}", f"recall@{DEEP}"), float("nan"))
        queries, passages = np.split(vectors, [len(self.gains)])
        answerable = (self.gains > 0).any(axis=1)
        ranked = np.argsort(-(queries @ passages.T), axis=1, kind="stable")
        gains = np.take_along_axis(self.gains, ranked, axis=1)[answerable]
        best = -np.sort(-self.gains, axis=1)[answerable]
        figures = {f"ndcg@{CUT}": _gained(gains) / _gained(best)}
        relevant = (gains > 0).sum(axis=1)
        for places in (CUT, DEEP):
            figures[f"recall@{places}"] = (gains[:, :places] > 0).sum(axis=1) / relevant
        return {name: 100.0 * float(values.mean()) for name, values in figures.items()}


def _numbered(texts: Sequence[str]) -> dict[str, int]:
    """Numbers of texts, in the order in which each is there first."""
    return places_of(dict.fromkeys(texts))


def _gained(gains: Array) -> Array:
    """Discounted gain of the first `CUT` places, by query."""
    first = gains[:, :CUT]
    discounts: Array = np.log2(np.arange(first.shape[1]) + 2.0)
    summed: Array = (first / discounts).sum(axis=1)
    return summed


def _relevance(table: Table, label: str | None) -> Sequence[float]:
    """How relevant each row says its passage is."""
    name = label or next((name for name in RELEVANCE_COLUMNS if table.header and name in table.names), None)
    if name is None and not table.header and len(table.names) > 2:
        name = table.names[2]
    if name is None:
        return [1.0] * len(table.rows)
    return list(map(float, numbers(table.column(name), table.path, name)))
