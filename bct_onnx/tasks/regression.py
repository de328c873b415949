"""Sequence regression: the one number a model gives per sequence or pair against the data's, as on GLUE STS-B."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bct_onnx.errors import UsageError
from bct_onnx.tasks.labelled import LabelledTexts
from bct_onnx.tasks.outputs import logits_output
from bct_onnx.tasks.readers import PAIR_COLUMNS, TEXT_COLUMNS, numbers
from bct_onnx.tasks.similarity import correlations
from bct_onnx.tasks.tokens import Array, Batch, Tokens


@dataclass(frozen=True)
class Regression:
    """Sequences with a number each; `scores` is float64 [sequences]."""

    tokens: Tokens
    scores: Array
    logits = False

    @staticmethod
    def load(source: LabelledTexts) -> Regression:
        """Read a table of texts (or pairs of texts) and numbers; without a header, pairs.

        Raises:
            UsageError: The data or the tokenizer cannot be read, or there is one row only.
        """
        table = source.table()
        columns = tuple(source.text) or table.text_columns((*PAIR_COLUMNS, *TEXT_COLUMNS))
        if len(table.rows) < 2:
            raise UsageError("a correlation needs two rows", where=str(source.data))
        name = source.label or table.label_column(len(columns))
        scores = numbers(table.column(name), table.path, name)
        return Regression(source.encoder().encode(*map(table.column, columns)), scores)

    def output(self, outputs: Mapping[str, int]) -> str:
        """`logits`, or the first output of one or two axes."""
        return logits_output(outputs, (1, 2), "regression output")

    def rows(self, output: Array, batch: Batch) -> Iterable[Array]:
        """The number per sequence, [1].

        Raises:
            UsageError: The model gives more than one number per sequence.
        """
        columns = output.reshape(len(batch.ids), -1)
        if columns.shape[1] != 1:
            raise UsageError(
                f"regression needs one number per sequence, the model gives {columns.shape[1]}",
                fix="use --task classification",
            )
        return columns

    def result(self, row: Array, index: int) -> float:
        """The number."""
        return float(row[0])

    def metrics(self, results: Sequence[Any]) -> dict[str, float]:
        """Spearman's and Pearson's correlation with the data's numbers, x 100."""
        return correlations(np.array(results), self.scores)
