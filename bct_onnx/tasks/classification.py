"""Sequence classification: the class with the largest logit against the label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bct_onnx.errors import UsageError
from bct_onnx.tasks.extras import extra
from bct_onnx.tasks.labelled import LabelledTexts
from bct_onnx.tasks.outputs import logits_output
from bct_onnx.tasks.readers import PAIR_COLUMNS, TEXT_COLUMNS
from bct_onnx.tasks.settings import settings
from bct_onnx.tasks.tokens import Array, Batch, Tokens


@dataclass(frozen=True)
class Classification:
    """Sequences with a class each; `labels` is int64 [sequences]."""

    tokens: Tokens
    labels: Array
    logits = True

    @staticmethod
    def load(source: LabelledTexts) -> Classification:
        """Read a table of texts (or pairs of texts) and labels.

        Raises:
            UsageError: The data or the tokenizer cannot be read, or a label is neither a number nor known to the model.
        """
        table = source.table()
        usual = (*PAIR_COLUMNS, *TEXT_COLUMNS) if table.header else TEXT_COLUMNS
        columns = tuple(source.text) or table.text_columns(usual)
        name = source.label or table.label_column(len(columns))
        cells = table.column(name)
        tokens = source.encoder().encode(*map(table.column, columns))
        return Classification(tokens, _classes(cells, source.tokenizer, f"{source.data}: column '{name}'"))

    def output(self, outputs: Mapping[str, int]) -> str:
        """`logits`, or the first output of two axes."""
        return logits_output(outputs, (2,), "classification output")

    def rows(self, output: Array, batch: Batch) -> Iterable[Array]:
        """The logits [classes] per sequence."""
        return output

    def result(self, row: Array, index: int) -> int:
        """The predicted class; -1 when a logit is NaN."""
        if np.isnan(row).any():
            return -1
        return int(np.argmax(row))

    def metrics(self, results: Sequence[Any]) -> dict[str, float]:
        """Accuracy, F1 (of class 1 with two classes, else the mean over classes) and Matthews, all x 100."""
        metrics = extra("sklearn.metrics")
        predicted = np.array(results)
        average = "binary" if set(self.labels) | set(predicted) <= {0, 1} else "macro"
        return {
            "accuracy": 100.0 * float(np.mean(predicted == self.labels)),
            "f1": 100.0 * float(metrics.f1_score(self.labels, predicted, average=average, zero_division=0.0)),
            "matthews": 100.0 * float(metrics.matthews_corrcoef(self.labels, predicted)),
        }


def _classes(cells: Sequence[str], folder: Path, where: str) -> Array:
    """Labels as class numbers: written as numbers, or by the names in the model's `config.json`."""
    if all(cell.strip().isdigit() for cell in cells):
        return np.array(list(map(int, cells)), np.int64)
    config = folder / "config.json"
    known: dict[str, int] = settings(config).get("label2id", {})
    for cell in cells:
        if cell not in known:
            why = f"labels named in {config} are {', '.join(known)}" if known else f"{config} names no labels"
            fix = "write labels as class numbers from 0"
            raise UsageError(f"unknown label '{cell}'", where=where, why=why, fix=fix)
    return np.array([known[cell] for cell in cells], np.int64)
