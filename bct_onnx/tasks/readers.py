"""Data from local files: tables with or without a header (csv, tsv, jsonl, parquet), plain text, token ids (npz)."""

from __future__ import annotations

import csv
import difflib
import itertools
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bct_onnx.errors import UsageError, path_fix
from bct_onnx.tasks import parquet

NO_ROWS = "give a file with a text, or a row of a table, on each line"
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
TEXT_COLUMNS = (("sentence",), ("text",), ("review",), ("content",))
PAIR_COLUMNS = (
    *((f"{text}1", f"{text}2") for text in ("sentence", "text", "question")),
    ("premise", "hypothesis"),
    ("question", "sentence"),
)
QUERIES = (("query", "passage"), ("query", "document"), ("query", "text"))
QUERY_COLUMNS = (*QUERIES, ("question", "passage"), ("anchor", "positive"))
LABEL_COLUMNS = ("label", "labels", "score", "similarity_score", "target", "gold_label")
RELEVANCE_COLUMNS = ("relevance", *LABEL_COLUMNS)
WORD_COLUMNS = ("tokens", "words")
TAG_COLUMNS = ("ner_tags", "tags", "labels", "pos_tags", "chunk_tags")

_USUAL = set().union(*TEXT_COLUMNS, *PAIR_COLUMNS, *QUERY_COLUMNS, RELEVANCE_COLUMNS)


@dataclass(frozen=True)
class Table:
    """Rows of text cells. Without a header the columns are called "0", "1" and so on."""

    path: Path
    names: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    header: bool

    def column(self, name: str) -> list[str]:
        """All cells of one column, by name or by number from 0.

        Raises:
            UsageError: There is no such column.
        """
        if name.isdecimal() and name not in self.names and int(name) < len(self.names):
            name = self.names[int(name)]
        if name not in self.names:
            close = difflib.get_close_matches(name, self.names, 1)
            hint = f"did you mean '{close[0]}'?" if close else f"columns are {', '.join(self.names)}"
            raise UsageError(f"there is no column '{name}'", where=str(self.path), fix=hint)
        position = self.names.index(name)
        return [row[position] for row in self.rows]

    def text_columns(self, choices: Iterable[tuple[str, ...]], option: str = "--text") -> tuple[str, ...]:
        """The first of the usual choices that this table has; without a header, its first columns.

        ``option`` is what a user names them with.

        Raises:
            UsageError: The table has a header with none of them.
        """
        choices = tuple(choices)
        if not self.header:
            return self.names[: len(choices[0])]
        found = next((choice for choice in choices if set(choice) <= set(self.names)), None)
        return found or self._undecided(option)

    def label_column(self, after: int) -> str:
        """The usual label column; without a header, the column after that many text columns.

        Raises:
            UsageError: There is none.
        """
        if not self.header and after < len(self.names):
            return self.names[after]
        found = next((name for name in LABEL_COLUMNS if name in self.names), None)
        return found or self._undecided("--label")[0]

    def _undecided(self, option: str) -> tuple[str, ...]:
        raise UsageError(
            "cannot tell which column to use",
            where=str(self.path),
            fix=f"name it with {option}; columns are {', '.join(self.names)}",
        )


def read_table(path: Path, named: Iterable[str] = (), limit: int | None = None) -> Table:
    """A `.csv`, `.tsv`, `.jsonl` or `.parquet` file. Tabs separate without quoting, as in GLUE; commas with it.

    Args:
        path: The file; its ending tells the format.
        named: Columns the user has named (not numbered): with the usual names, they tell a header from a first row.
        limit: Keep only so many rows.

    Raises:
        UsageError: The file is missing, empty, of another kind, or its rows have different numbers of columns.
    """
    kind = path.suffix.lower()
    if kind not in TABLES:
        raise UsageError(f"cannot read '{kind}' as a table", where=str(path), fix=f"use a file of {', '.join(TABLES)}")
    if kind == ".parquet":
        return Table(path, *parquet.read(path, limit), header=True)
    lines = _text(path)
    if kind == ".jsonl":
        return _json_lines(path, lines.splitlines(), limit)
    kept = lines.splitlines(keepends=True)
    reader = csv.reader(kept, delimiter="\t", quoting=csv.QUOTE_NONE) if kind == ".tsv" else csv.reader(kept)
    rows = [tuple(row) for row in reader if row]
    if not rows:
        raise UsageError("there are no rows", where=str(path), fix=NO_ROWS)
    uneven = next((number for number, row in enumerate(rows) if len(row) != len(rows[0])), None)
    if uneven is not None:
        why = f"row {uneven + 1} has {len(rows[uneven])} columns, the first has {len(rows[0])}"
        raise UsageError("this is not a table", where=str(path), why=why, fix="quote commas, or use tabs in a .tsv")
    header = bool((_USUAL | {name for name in named if not name.isdecimal()}) & set(rows[0]))
    names = rows[0] if header else tuple(str(position) for position in range(len(rows[0])))
    return Table(path, names, tuple(rows[header:][:limit]), header)


def read_text(path: Path) -> str:
    """A text file as it is.

    Raises:
        UsageError: It is missing, empty or not UTF-8.
    """
    text = _text(path)
    if not text.strip():
        raise UsageError("there is no text", where=str(path))
    return text


def read_texts(path: Path, columns: Sequence[str] = ()) -> list[list[str]]:
    """The texts of a file: one list of them, or two of equal length for pairs.

    Args:
        path: A table (`TABLES`), or a text of which each line that is not empty is one.
        columns: The column of a table that holds the texts, or two of them; by default the usual names.

    Raises:
        UsageError: It cannot be read, or more than two columns are named, or any of a file that is no table.
    """
    if path.suffix.lower() in TABLES:
        return texts_of(read_table(path, columns), columns)
    if columns:
        raise UsageError("only tables have columns", where=str(path), fix="leave the column out, or use .csv or .tsv")
    return [[line for line in read_text(path).splitlines() if line.strip()]]


def texts_of(table: Table, columns: Sequence[str] = ()) -> list[list[str]]:
    """The texts of a table, as `read_texts`, with its errors."""
    names = tuple(columns) or table.text_columns((*TEXT_COLUMNS, *PAIR_COLUMNS), option="--column")
    if len(names) > 2:
        raise UsageError(f"{len(names)} columns are too many", where=str(table.path), fix="name one, or two for pairs")
    return [table.column(name) for name in names]


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
        return tagged_of(_records(path, _text(path).splitlines()), path, words, tags, limit)
    lines = [line.split() for line in _text(path).splitlines()]
    single = next((number for number, cells in enumerate(lines, 1) if len(cells) == 1), None)
    if single is not None:
        raise UsageError("a word without a tag", where=f"{path}, line {single}", fix="use CoNLL lines: WORD ... TAG")
    parts = [list(part) for filled, part in itertools.groupby(lines, bool) if filled]
    sentences = [part for part in parts if part[0][0] != "-DOCSTART-"][:limit]
    if not sentences:
        raise UsageError("there are no rows", where=str(path), fix=NO_ROWS)
    first, last = (tuple(tuple(cells[i] for cells in part) for part in sentences) for i in (0, -1))
    return Tagged(first, last)


def tagged_of(
    rows: Sequence[Mapping[str, Any]], path: Path, words: str | None, tags: str | None, limit: int | None = None
) -> Tagged:
    """Tagged sentences from rows that hold a list of words and a list of tags each.

    Raises:
        UsageError: The columns are missing, no lists, or of unequal lengths.
    """
    chosen = tagged_columns(rows[0], path, words, tags)
    pairs = [[row[name] for name in chosen] for row in rows[:limit]]
    for number, pair in enumerate(pairs, 1):
        if not all(isinstance(one, list) for one in pair) or len(pair[0]) != len(pair[1]):
            raise UsageError(f"'{chosen[0]}' and '{chosen[1]}' are not lists alike", where=f"{path}, row {number}")
    first, second = (tuple(tuple(map(str, pair[i])) for pair in pairs) for i in (0, 1))
    return Tagged(first, second)


def tagged_columns(names: Iterable[str], path: Path, words: str | None, tags: str | None) -> tuple[str, str]:
    """The columns of words and of tags: those named, or the usual ones.

    Raises:
        UsageError: There are none.
    """
    known = tuple(names)
    first = words or next((name for name in WORD_COLUMNS if name in known), "")
    second = tags or next((name for name in TAG_COLUMNS if name in known), "")
    for found in (first, second):
        if found not in known:
            missing = f"there is no column '{found}'" if found else "cannot tell which column to use"
            raise UsageError(missing, where=str(path), fix=f"use --text and --label; columns are {', '.join(known)}")
    return first, second


def read_token_sequences(path: Path, limit: int | None = None) -> list[np.ndarray[Any, Any]]:
    """An `.npz` file with `tokens` (all ids joined) and `lengths` (ids per sequence), as int64 arrays.

    Raises:
        UsageError: The file is missing or does not hold the two arrays, or they do not add up.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            tokens, lengths = file["tokens"].astype(np.int64), file["lengths"].astype(np.int64)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise UsageError(
            "cannot read token sequences", where=str(path), why=str(error), fix="save arrays 'tokens' and 'lengths'"
        ) from error
    if tokens.ndim != 1 or lengths.sum() != tokens.size:
        raise UsageError("'lengths' do not add up to the number of 'tokens'", where=str(path))
    return list(np.split(tokens, np.cumsum(lengths)[:-1]))[:limit]


def numbers(cells: Sequence[str], path: Path, column: str) -> np.ndarray[Any, Any]:
    """Cells as float64.

    Raises:
        UsageError: A cell is not a finite number.
    """
    for row, cell in enumerate(cells):
        try:
            fine = np.isfinite(float(cell))
        except ValueError:
            fine = False
        if not fine:
            raise UsageError(f"'{cell}' is not a number", where=f"{path}: column '{column}', row {row + 1}")
    return np.array([float(cell) for cell in cells])


def _json_lines(path: Path, lines: Sequence[str], limit: int | None) -> Table:
    rows = _records(path, lines)
    names = tuple(rows[0])
    return Table(path, names, tuple(tuple(str(row[name]) for name in names) for row in rows[:limit]), header=True)


def _records(path: Path, lines: Sequence[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError("this is not JSON", where=f"{path}, line {number}", why=str(error)) from error
        if not isinstance(row, dict) or (rows and row.keys() != rows[0].keys()):
            raise UsageError("every line has to be an object with the same keys", where=f"{path}, line {number}")
        rows.append(row)
    if not rows:
        raise UsageError("there are no rows", where=str(path), fix=NO_ROWS)
    return rows


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError("cannot read the data", where=str(path), why=str(error), fix="give a UTF-8 file") from error
    except OSError as error:
        why = error.strerror or str(error)
        raise UsageError("cannot read the data", where=str(path), why=why, fix=path_fix(path.absolute())) from error
