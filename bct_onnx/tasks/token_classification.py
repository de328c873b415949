"""Token classification: a tag per word, as in named entity recognition, predicted at the word's first token."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bct_onnx.errors import UsageError
from bct_onnx.tasks.extras import extra
from bct_onnx.tasks.labelled import LabelledTexts
from bct_onnx.tasks.outputs import logits_output
from bct_onnx.tasks.settings import settings
from bct_onnx.tasks.sources import open_tagged
from bct_onnx.tasks.tokens import Array, Batch, Tokens


@dataclass(frozen=True)
class TokenClassification:
    """Sentences with a tag per word.

    Attributes:
        tokens: The sentences.
        starts: Per sentence, where each word's first token is, int64; -1 for words without one, such as those cut off.
        tags: Per sentence, the name of each word's tag.
        names: The model's tags in the order of its logits.
    """

    tokens: Tokens
    starts: tuple[Array, ...]
    tags: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]
    logits = True

    @staticmethod
    def load(source: LabelledTexts) -> TokenClassification:
        """Read tagged sentences: CoNLL lines, `.jsonl` or a data set; the text column is that of the words.

        Raises:
            UsageError: The data or the tokenizer cannot be read, or a tag is not one of the model's.
        """
        tagged = open_tagged(source.data, source.text[0] if source.text else None, source.label, source.limit)
        names = _names(source.tokenizer, tagged.names)
        tags = tuple(tuple(_name(tag, tagged.names or names) for tag in row) for row in tagged.tags)
        for tag in itertools.chain.from_iterable(tags):
            if tag not in names:
                known = f"its tags are {', '.join(names)}"
                why = known if names else f"no id2label in {source.tokenizer / 'config.json'}"
                raise UsageError(f"the model has no tag '{tag}'", where=str(source.data), why=why)
        tokens, starts = source.encoder().encode_words(tagged.words)
        return TokenClassification(tokens, starts, tags, names)

    def output(self, outputs: Mapping[str, int]) -> str:
        """`logits`, or the first output of three axes."""
        return logits_output(outputs, (3,), "output per token")

    def rows(self, output: Array, batch: Batch) -> Iterable[Array]:
        """Logits [words that have tokens, tags] per sentence."""
        for row, index in enumerate(batch.index):
            starts = self.starts[index]
            yield output[row, starts[starts >= 0]]

    def result(self, row: Array, index: int) -> tuple[str, ...]:
        """The predicted tag of each word; "O" for words without a token, and where a logit is NaN."""
        best = np.full(len(self.tags[index]), -1)
        best[self.starts[index] >= 0] = np.where(np.isnan(row).any(axis=1), -1, row.argmax(axis=1))
        return tuple("O" if tag < 0 else self.names[tag] for tag in best)

    def metrics(self, results: Sequence[Any]) -> dict[str, float]:
        """F1, precision and recall of whole entities where tags are of the kind `B-PER`; else accuracy and mean F1."""
        if any(name[1:2] == "-" for name in self.names):
            scores = extra("seqeval.metrics")
            true, predicted = list(map(list, self.tags)), list(map(list, results))
            figures = {"f1": scores.f1_score, "precision": scores.precision_score, "recall": scores.recall_score}
            return {name: 100.0 * float(score(true, predicted, zero_division=0)) for name, score in figures.items()}
        metrics = extra("sklearn.metrics")
        flat, guessed = (list(itertools.chain.from_iterable(rows)) for rows in (self.tags, results))
        return {
            "accuracy": 100.0 * float(metrics.accuracy_score(flat, guessed)),
            "f1": 100.0 * float(metrics.f1_score(flat, guessed, average="macro", zero_division=0.0)),
        }


def _names(folder: Path, declared: tuple[str, ...]) -> tuple[str, ...]:
    """The model's tags from `id2label` of its `config.json`; the data's own where the model says nothing of meaning."""
    labels: dict[str, str] = settings(folder / "config.json").get("id2label", {})
    names = tuple(labels[key] for key in sorted(labels, key=int))
    meaningless = all(name == f"LABEL_{number}" for number, name in enumerate(names))
    if meaningless and declared:
        return declared
    return names


def _name(tag: str, names: Sequence[str]) -> str:
    if tag.isdigit() and int(tag) < len(names):
        return names[int(tag)]
    return tag
