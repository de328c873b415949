"""Texts in batches as a service gets them, of unequal lengths and padded: what models are timed on for real use."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bct_onnx.errors import UsageError
from bct_onnx.runtime.feeds import Feeds, beside_tokens
from bct_onnx.runtime.inputs import Input
from bct_onnx.tasks.feeding import feeds_of, pieces
from bct_onnx.tasks.readers import read_texts
from bct_onnx.tasks.tokens import Batch, TextTokenizer, Tokens, batches, by_length

ORDERS = ("file", "shuffled", "sorted")
"""As they come, in an order drawn with a seed, or by length, which leaves hardly any padding."""


@dataclass(frozen=True)
class TextBatches:
    """Tokenized texts in batches, each padded at the right to its longest.

    Attributes:
        source: The file.
        order: One of `ORDERS`.
        size: Texts of a batch; the last one may have fewer.
        pad: Token id that pads.
        batches: In running order.
    """

    source: str
    order: str
    size: int
    pad: int
    batches: tuple[Batch, ...]

    @staticmethod
    def read(
        file: Path,
        tokenizer: Path,
        *,
        size: int = 32,
        order: str = "file",
        columns: Sequence[str] = (),
        length: int = 128,
        limit: int | None = None,
        seed: int = 0,
    ) -> TextBatches:
        """Read and tokenize a file.

        Args:
            file: A table or a text, as `read_texts` takes.
            tokenizer: Folder of `tokenizer.json`.
            size: Texts of a batch.
            order: One of `ORDERS`.
            columns: Of a table: one of texts, or two of pairs.
            length: Texts are cut to so many tokens, special ones included.
            limit: Only the first so many texts of the file.
            seed: Of the shuffled order.

        Raises:
            UsageError: The file or the tokenizer cannot be read, or the order is unknown.
        """
        if order not in ORDERS:
            raise UsageError(f"unknown order '{order}'", where="--order", fix=f"use {', '.join(ORDERS)}")
        texts = [column[:limit] for column in read_texts(file, columns)]
        encoder = TextTokenizer(tokenizer, length)
        tokens = encoder.encode(*texts)
        padded = tuple(batches(tokens, size, _ordered(tokens, order, seed)))
        return TextBatches(file.name, order, size, encoder.pad, padded)

    @property
    def texts(self) -> int:
        """Texts in all."""
        return sum(len(batch.index) for batch in self.batches)

    @property
    def tokens(self) -> int:
        """Tokens in all, without padding."""
        return sum(int(batch.mask.sum()) for batch in self.batches)

    @property
    def real(self) -> float:
        """Share of all positions that are tokens and not padding."""
        return self.tokens / sum(batch.mask.size for batch in self.batches)

    def series(self, inputs: Sequence[Input]) -> list[list[Feeds]]:
        """For each batch the runs in which a model takes it: one, or several where it has no mask or fixed sizes.

        Raises:
            UsageError: The model takes something besides texts, or a text does not fit into it.
        """
        if strange := beside_tokens(inputs):
            raise UsageError(
                f"the model takes more than texts: its input '{strange[0]}' is not made of tokens",
                where="--texts",
                fix="time it on made-up inputs (--shape), or on yours (--inputs FILE.npz)",
            )
        return [[feeds_of(piece, inputs) for piece in pieces(batch, inputs, self.pad)] for batch in self.batches]

    def about(self) -> dict[str, Any]:
        """What was run, in the form of the JSON output."""
        counts = {"texts": self.texts, "batches": len(self.batches), "tokens": self.tokens, "real": self.real}
        return {"source": self.source, "order": self.order, "batch": self.size} | counts


def _ordered(tokens: Tokens, order: str, seed: int) -> list[int]:
    numbers = by_length(tokens) if order == "sorted" else list(range(len(tokens.ids)))
    if order == "shuffled":
        random.Random(seed).shuffle(numbers)
    return numbers
