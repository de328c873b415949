"""Sentences of words with a tag each, from local files (jsonl, CoNLL) and from rows of data sets."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bct_onnx.errors import UsageError
from bct_onnx.tasks.readers import NO_ROWS, decoded, first_known, records

WORD_COLUMNS = ("tokens", "words")
TAG_COLUMNS = ("ner_tags", "tags", "labels", "pos_tags", "chunk_tags")


@dataclass(frozen=True)
class Tagged:
    """Sentences of words with a tag each; `names` of tags written as numbers, where the data tells them."""

    words: tuple[tuple[str, ...], ...]
    tags: tuple[tuple[str, ...], ...]
    names: tuple[str, ...] = ()


def read_tagged(path: Path, words: str | None = None, tags: str | None = None, limit: int | None = None) -> Tagged:
    """Tagged sentences: `.jsonl` with a list of words and one of tags, else CoNLL (a word a line, its tag last).

    Args:
        path: The file; its ending tells the format.
        words: Key of the words in `.jsonl`; by default one of `WORD_COLUMNS`.
        tags: Key of the tags; by default one of `TAG_COLUMNS`.
        limit: Keep only so many sentences.

    Raises:
        UsageError: The file is missing, empty or of another kind.
    """
    if path.suffix.lower() == ".jsonl":
        return tagged_of(records(path, decoded(path).splitlines()), path, words, tags, limit)
    words_of: list[tuple[str, ...]] = []
    tags_of: list[tuple[str, ...]] = []
    for filled, lines in itertools.groupby(_conll_lines(path), bool):
        sentence = list(lines)
        if filled and sentence[0][0] != "-DOCSTART-":
            words_of.append(tuple(cells[0] for cells in sentence))
            tags_of.append(tuple(cells[-1] for cells in sentence))
    if not words_of:
        raise UsageError("there are no rows", where=str(path), fix=NO_ROWS)
    return Tagged(tuple(words_of[:limit]), tuple(tags_of[:limit]))


def _conll_lines(path: Path) -> Iterator[list[str]]:
    """The cells of each line: a word first and its tag last, or nothing between sentences."""
    for number, line in enumerate(decoded(path).splitlines(), 1):
        cells = line.split()
        if len(cells) == 1:
            where = f"{path}, line {number}"
            raise UsageError("a word without a tag", where=where, fix="use CoNLL lines: WORD ... TAG")
        yield cells


def tagged_of(
    rows: Sequence[Mapping[str, Any]], path: Path, words: str | None, tags: str | None, limit: int | None = None
) -> Tagged:
    """Tagged sentences from rows that hold a list of words and a list of tags each.

    Raises:
        UsageError: The columns are missing, no lists, or of unequal lengths.
    """
    word_column, tag_column = tagged_columns(rows[0], path, words, tags)
    words_of: list[tuple[str, ...]] = []
    tags_of: list[tuple[str, ...]] = []
    for number, row in enumerate(rows[:limit], 1):
        sentence, marks = row[word_column], row[tag_column]
        if not isinstance(sentence, list) or not isinstance(marks, list) or len(sentence) != len(marks):
            raise UsageError(f"'{word_column}' and '{tag_column}' are not lists alike", where=f"{path}, row {number}")
        words_of.append(tuple(map(str, sentence)))
        tags_of.append(tuple(map(str, marks)))
    return Tagged(tuple(words_of), tuple(tags_of))


def tagged_columns(names: Iterable[str], path: Path, words: str | None, tags: str | None) -> tuple[str, str]:
    """The columns of words and of tags: those named, or the usual ones.

    Raises:
        UsageError: There are none.
    """
    known = tuple(names)
    chosen = words or first_known(WORD_COLUMNS, known), tags or first_known(TAG_COLUMNS, known)
    for column in chosen:
        if column not in known:
            missing = f"there is no column '{column}'" if column else "cannot tell which column to use"
            raise UsageError(missing, where=str(path), fix=f"use --text and --label; columns are {', '.join(known)}")
    return chosen
