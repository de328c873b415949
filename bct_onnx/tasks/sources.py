"""Where data comes from: a local file, or a data set by its name through the package `datasets`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bct_onnx.errors import UsageError
from bct_onnx.tasks.extras import extra
from bct_onnx.tasks.parquet import rows_of
from bct_onnx.tasks.parts import evenly
from bct_onnx.tasks.readers import (
    TABLES,
    TEXT_COLUMNS,
    Table,
    read_table,
    read_text,
    read_texts,
    texts_of,
)
from bct_onnx.tasks.tagged import Tagged, read_tagged, tagged_columns, tagged_of

MOST = 1 << 15
"""Rows of a data set that are read as texts, spread evenly: some have millions."""

_TEXTS = (".txt", ".npz", ".conll", ".bio", ".iob2")


def open_table(source: Path | str, named: Iterable[str] = (), limit: int | None = None) -> Table:
    """A table from a file (see `read_table`) or a data set (see `open_dataset`), whose cells become text.

    Raises:
        UsageError: It cannot be read.
    """
    if is_file(source):
        return read_table(Path(source), named, limit)
    return _table(source, open_dataset(str(source), limit)[:])


def open_texts(source: Path | str, columns: Sequence[str] = ()) -> list[list[str]]:
    """The texts of a file or data set: one list of them, or two of equal length for pairs (see `read_texts`).

    Raises:
        UsageError: They cannot be read.
    """
    if is_file(source):
        return read_texts(Path(source), columns)
    rows = open_dataset(Path(source).as_posix())
    some = rows.select(evenly(range(len(rows)), min(MOST, len(rows))))
    return texts_of(_table(source, some[:]), columns)


def _table(source: Path | str, columns: Mapping[str, Iterable[Any]]) -> Table:
    """Columns of a data set, whose cells become text."""
    return Table(Path(source), tuple(columns), rows_of(columns), header=True)


def open_text(source: Path | str, column: str | None = None) -> str:
    """A text file as it is, or the texts of one column of a table or data set, a line each.

    Raises:
        UsageError: It cannot be read, or is empty.
    """
    if is_file(source) and Path(source).suffix.lower() not in TABLES:
        return read_text(Path(source))
    table = open_table(source, [column] if column else ())
    cells = table.column(column or table.text_columns(TEXT_COLUMNS)[0])
    return "".join(cell if cell.endswith("\n") else f"{cell}\n" for cell in cells)


def open_tagged(
    source: Path | str, words: str | None = None, tags: str | None = None, limit: int | None = None
) -> Tagged:
    """Tagged sentences from a file (see `read_tagged`) or a data set with lists of words and of tags.

    Raises:
        UsageError: They cannot be read.
    """
    if is_file(source):
        return read_tagged(Path(source), words, tags, limit)
    rows = open_dataset(str(source), limit)
    tagged = tagged_of(rows.to_list(), Path(source), words, tags)
    _, column = tagged_columns(rows.column_names, Path(source), words, tags)
    kind = getattr(rows.features[column], "feature", None)
    return Tagged(tagged.words, tagged.tags, tuple(getattr(kind, "names", ())))


def is_file(source: Path | str) -> bool:
    """Whether it is a file, or looks like the path of one, and not like the name of a data set."""
    return Path(source).is_file() or Path(source).suffix.lower() in (*TABLES, *_TEXTS)


def open_dataset(name: str, limit: int | None = None) -> Any:
    """A `datasets.Dataset` by `NAME[/CONFIGURATION][:SPLIT]`.

    NAME is a name on the hub (`glue/sst2:validation`, `owner/name/configuration:test`), a folder that `save_to_disk`
    wrote, or a folder of data files.

    Args:
        name: What to open; the split may be left out where there is only one, and may be a slice (`test[:100]`).
        limit: Keep only so many rows.

    Raises:
        UsageError: The package or the data set is missing, the split is not told, or there are no rows.
    """
    place, _, split = name.partition(":")
    datasets = extra("datasets")
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    extra("huggingface_hub").utils.logging.set_verbosity_error()  # its retries are told once, as an error
    try:
        dataset = _load(datasets, place, split)
    except (OSError, ValueError, IndexError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise UsageError(
            "cannot load the data",
            where=name,
            why=f"there is no such file, and as a data set: {error}",
            fix="give a file, a folder of save_to_disk, or NAME[/CONFIGURATION][:SPLIT]; a name needs network once",
        ) from error
    if isinstance(dataset, dict) and len(dataset) > 1:
        raise UsageError("the data set has several splits", where=name, fix=f"name one, as {place}:{[*dataset][-1]}")
    rows = next(iter(dataset.values())) if isinstance(dataset, dict) else dataset
    if not len(rows):
        raise UsageError("there are no rows", where=name)
    if limit is None:
        return rows
    return rows.select(range(min(limit, len(rows))))


def _load(datasets: Any, place: str, split: str) -> Any:
    """A data set, or a dictionary of them when no split is named."""
    if any((Path(place) / file).is_file() for file in ("dataset_dict.json", "state.json")):
        saved = datasets.load_from_disk(place)
        if not split or not isinstance(saved, dict):
            return saved
        if split not in saved:
            raise ValueError(f'Unknown split "{split}". Should be one of {[*saved]}.')
        return saved[split]
    name, _, configuration = place.rpartition("/")
    local = bool(name) and (Path(name) / "README.md").is_file()  # only there can a folder name its configurations
    named = not Path(place).is_dir() and (local or name.count("/") == 1)
    parts = (name, configuration) if named else (place,)
    try:
        return datasets.load_dataset(*parts, split=split or None)
    except (datasets.exceptions.DatasetNotFoundError, ConnectionError):  # of which the second may be in the cache
        if len(parts) == 2 or place.count("/") != 1:
            raise
        return datasets.load_dataset(name, configuration, split=split or None)  # glue/sst2 reads like owner/name
