"""Data from local files: tables with or without a header (csv, tsv, jsonl, parquet), plain text, token ids (npz)."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bct_onnx.errors import UsageError, nearest, path_fix
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
            fix = nearest(name, self.names, "columns")
            raise UsageError(f"there is no column '{name}'", where=str(self.path), fix=fix)
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
        for choice in choices:
            if set(choice) <= set(self.names):
                return choice
        raise self._undecided(option)

    def label_column(self, after: int) -> str:
        """The usual label column; without a header, the column after that many text columns.

        Raises:
            UsageError: There is none.
        """
        if not self.header and after < len(self.names):
            return self.names[after]
        column = first_known(LABEL_COLUMNS, self.names)
        if not column:
            raise self._undecided("--label")
        return column

    def _undecided(self, option: str) -> UsageError:
        fix = f"name it with {option}; columns are {', '.join(self.names)}"
        return UsageError("cannot tell which column to use", where=str(self.path), fix=fix)


def first_known(names: Iterable[str], known: Collection[str]) -> str:
    """The first of some names that is known; empty where none is."""
    return next((name for name in names if name in known), "")


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
    lines = decoded(path)
    if kind == ".jsonl":
        return _json_lines(path, lines.splitlines(), limit)
    kept = lines.splitlines(keepends=True)
    reader = csv.reader(kept, delimiter="\t", quoting=csv.QUOTE_NONE) if kind == ".tsv" else csv.reader(kept)
    rows = [tuple(row) for row in reader if row]
    if not rows:
        raise UsageError("there are no rows", where=str(path), fix=NO_ROWS)
    width = len(rows[0])
    for number, row in enumerate(rows, 1):
        if len(row) != width:
            why = f"row {number} has {len(row)} columns, the first has {width}"
            raise UsageError("this is not a table", where=str(path), why=why, fix="quote commas, or use tabs in a .tsv")
    header = bool((_USUAL | {name for name in named if not name.isdecimal()}) & set(rows[0]))
    names = rows[0] if header else tuple(map(str, range(width)))
    return Table(path, names, tuple(rows[header:][:limit]), header)


def read_text(path: Path) -> str:
    """A text file as it is.

    Raises:
        UsageError: It is missing, empty or not UTF-8.
    """
    text = decoded(path)
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
    return [list(filter(str.strip, read_text(path).splitlines()))]


def texts_of(table: Table, columns: Sequence[str] = ()) -> list[list[str]]:
    """The texts of a table, as `read_texts`, with its errors."""
    names = tuple(columns) or table.text_columns((*TEXT_COLUMNS, *PAIR_COLUMNS), option="--column")
    if len(names) > 2:
        raise UsageError(f"{len(names)} columns are too many", where=str(table.path), fix="name one, or two for pairs")
    return list(map(table.column, names))


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
    return np.array(list(map(float, cells)))


def _json_lines(path: Path, lines: Sequence[str], limit: int | None) -> Table:
    rows = records(path, lines)
    names = tuple(rows[0])
    return Table(path, names, tuple(tuple(str(row[name]) for name in names) for row in rows[:limit]), header=True)


def records(path: Path, lines: Sequence[str]) -> list[dict[str, Any]]:
    """A JSON object per line, all with the same keys; empty lines are left out.

    Raises:
        UsageError: A line is something else, or there is none.
    """
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


def decoded(path: Path) -> str:
    """The text of a file, with or without a mark of its encoding.

    Raises:
        UsageError: It is missing or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError("cannot read the data", where=str(path), why=str(error), fix="give a UTF-8 file") from error
    except OSError as error:
        why = error.strerror or str(error)
        raise UsageError("cannot read the data", where=str(path), why=why, fix=path_fix(path.absolute())) from error
