"""Tables in Parquet files, through the package that `datasets` reads them with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from bct_onnx.errors import UsageError
from bct_onnx.tasks.extras import extra


def read(path: Path, limit: int | None = None) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """The names of the columns, and the rows, whose cells become text.

    Args:
        path: The file.
        limit: Keep only so many rows.

    Raises:
        UsageError: The package is missing, the file is none of these, or it has no rows.
    """
    parquet = extra("pyarrow.parquet")
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise UsageError("cannot read the data", where=str(path), why=str(error), fix="give a Parquet file") from error
    columns = (table if limit is None else table.slice(0, limit)).to_pydict()
    rows = rows_of(columns)
    if not rows:
        raise UsageError("there are no rows", where=str(path))
    return tuple(columns), rows


def rows_of(columns: Mapping[str, Iterable[object]]) -> tuple[tuple[str, ...], ...]:
    """The rows of columns of one length, whose cells become text."""
    return tuple(zip(*(map(text_of, column) for column in columns.values()), strict=True))


def text_of(cell: object) -> str:
    """A cell as text; nothing is an empty one."""
    if cell is None:
        return ""
    return str(cell)
