"""Perplexity of a decoder language model: the exponential of the mean negative log-likelihood per predicted token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bct_onnx.errors import UsageError
from bct_onnx.tasks.deviation import log_sum_exp
from bct_onnx.tasks.outputs import logits_output
from bct_onnx.tasks.readers import read_token_sequences
from bct_onnx.tasks.sources import open_text
from bct_onnx.tasks.tokens import Array, Batch, TextTokenizer, Tokens


@dataclass(frozen=True)
class Perplexity:
    """Token sequences, each predicted from its own start: the first token of a sequence is given, not predicted."""

    tokens: Tokens
    logits = True

    @staticmethod
    def load(
        data: Path | str,
        tokenizer: Path | None,
        *,
        text: str | None = None,
        max_length: int = 128,
        limit: int | None = None,
    ) -> Perplexity:
        """Read a text, tokenized whole and cut into windows, or an `.npz` of token sequences, kept whole.

        Args:
            data: A text file, a table or data set with a column of texts, or an `.npz` with `tokens` and `lengths`.
            tokenizer: Folder of `tokenizer.json`; token sequences need none.
            text: The column of texts; their lines are joined to one text.
            max_length: Predictions per window of a text; a window starts at the last token of the one before.
            limit: At most so many windows or sequences.

        Raises:
            UsageError: The data or the tokenizer cannot be read, or there is nothing to predict.
        """
        if Path(data).suffix.lower() == ".npz":
            sequences = read_token_sequences(Path(data), limit)
        elif tokenizer is None:
            raise UsageError("a text needs a tokenizer", where=str(data), fix="give its folder with --tokenizer")
        else:
            (ids,) = TextTokenizer(tokenizer).encode([open_text(data, text)]).ids
            sequences = [ids[start : start + max_length + 1] for start in range(0, len(ids) - 1, max_length)][:limit]
        sequences = [ids for ids in sequences if len(ids) > 1]
        if not sequences:
            raise UsageError("there is no token to predict", where=str(data))
        return Perplexity(Tokens.plain(sequences))

    def output(self, outputs: Mapping[str, int]) -> str:
        """`logits`, or the first output of three axes."""
        return logits_output(outputs, (3,), "language model output")

    def rows(self, output: Array, batch: Batch) -> Iterable[Array]:
        """Logits [predictions, vocabulary] per sequence: what follows the last token is not known."""
        for logits, mask in zip(output, batch.mask, strict=True):
            yield logits[: max(0, int(mask.sum()) - 1)].astype(np.float32, copy=False)

    def result(self, row: Array, index: int) -> tuple[float, int]:
        """Negative log-likelihood in nats, and number of predictions."""
        shifted, log_sum = log_sum_exp(row)
        targets = self.tokens.ids[index][1:]
        return float((log_sum - shifted[np.arange(len(targets)), targets]).sum()), len(targets)

    def metrics(self, results: Sequence[Any]) -> dict[str, float]:
        """Perplexity per token."""
        likelihood, count = np.sum(results, axis=0)
        return {"perplexity": float(np.exp(likelihood / count))}
