"""Texts to token ids through a model's own `tokenizer.json`, and sequences of unequal length to padded batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bct_onnx.errors import UsageError
from bct_onnx.tasks.extras import extra
from bct_onnx.tasks.settings import settings

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Tokens:
    """Token ids of many sequences (int64, each of its own length), their segment ids, and the id that pads them."""

    ids: tuple[Array, ...]
    types: tuple[Array, ...]
    pad: int = 0

    @staticmethod
    def plain(ids: Sequence[Array], pad: int = 0) -> Tokens:
        """Sequences of one segment."""
        return Tokens(tuple(ids), tuple(map(np.zeros_like, ids)), pad)


@dataclass(frozen=True)
class Batch:
    """Some sequences side by side: which (`index` [rows]), and `ids`, `mask`, `types` [rows, length], int64."""

    index: Array
    ids: Array
    mask: Array
    types: Array


class TextTokenizer:
    """`tokenizer.json` with its own special tokens; truncates to `max_length` where one is given."""

    def __init__(self, folder: Path, max_length: int | None = None) -> None:
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise UsageError(
                "no tokenizer", where=str(file), fix="give the folder that holds the model's tokenizer.json"
            )
        self._tokenizer = extra("tokenizers", of="text").Tokenizer.from_file(str(file))
        self.pad = self._pad_id(folder)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if max_length is not None:
            self._tokenizer.enable_truncation(max_length)

    def encode(self, *texts: Sequence[str]) -> Tokens:
        """One sequence per text; given two lists, one sequence per pair."""
        inputs = list(texts[0]) if len(texts) == 1 else list(zip(*texts, strict=True))
        return self._tokens(self._tokenizer.encode_batch(inputs))

    def _tokens(self, encodings: Sequence[Any]) -> Tokens:
        ids, types = [], []
        for encoding in encodings:
            ids.append(np.array(encoding.ids, np.int64))
            types.append(np.array(encoding.type_ids, np.int64))
        return Tokens(tuple(ids), tuple(types), self.pad)

    def encode_words(self, sentences: Sequence[Sequence[str]]) -> tuple[Tokens, tuple[Array, ...]]:
        """One sequence per sentence of words, and where in it each word starts (-1: nowhere, it was cut off)."""
        encodings = self._tokenizer.encode_batch(list(map(list, sentences)), is_pretokenized=True)
        starts = (_word_starts(e.word_ids, len(words)) for e, words in zip(encodings, sentences, strict=True))
        return self._tokens(encodings), tuple(starts)

    def _pad_id(self, folder: Path) -> int:
        if self._tokenizer.padding is not None:
            return int(self._tokenizer.padding["pad_id"])
        named = settings(folder / "tokenizer_config.json").get("pad_token")
        if isinstance(named, dict):
            named = named["content"]
        for token in filter(None, (named, "[PAD]", "<pad>")):
            number = self._tokenizer.token_to_id(token)
            if number is not None:
                return int(number)
        return 0


def _word_starts(owners: Sequence[int | None], words: int) -> Array:
    """Position of the first token of each word, from the word that owns each token; special tokens have none."""
    starts = np.full(words, -1)
    for position in reversed(range(len(owners))):
        owner = owners[position]
        if owner is not None:
            starts[owner] = position
    return starts


def by_length(tokens: Tokens) -> list[int]:
    """The numbers of the sequences, short ones first, those of equal length as they come."""
    return sorted(range(len(tokens.ids)), key=lambda i: len(tokens.ids[i]))


def batches(tokens: Tokens, size: int, order: Sequence[int] | None = None) -> Iterator[Batch]:
    """Sequences in some order (by length unless told), `size` at a time, padded at the right to the longest of the
    batch.
    """
    order = by_length(tokens) if order is None else order
    for start in range(0, len(order), size):
        index = order[start : start + size]
        lengths = np.array([len(tokens.ids[i]) for i in index])
        mask = (np.arange(max(1, lengths.max())) < lengths[:, None]).astype(np.int64)
        ids, types = np.full_like(mask, tokens.pad), np.zeros_like(mask)
        for row, i in enumerate(index):
            ids[row, : lengths[row]], types[row, : lengths[row]] = tokens.ids[i], tokens.types[i]
        yield Batch(np.array(index), ids, mask, types)
