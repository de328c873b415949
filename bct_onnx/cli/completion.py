"""What a shell completes: presets, targets, passes and columns.

Each press of Tab starts a process, so names are read from files, and nothing heavy is imported.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import typer

from bct_onnx.presets import read

_CHECKOUT = Path(__file__).resolve().parents[2]

PRESETS_FILE = _CHECKOUT / "passes" / "presets.toml"
"""The presets' data; the package beside it is not imported, since it imports all passes."""


def preset_names(incomplete: str) -> Iterator[str]:
    """The presets whose names begin so.

    >>> list(preset_names("w4a8"))
    ['w4a8', 'w4a8-nearest']
    """
    known = read(PRESETS_FILE)
    return _begun([*known.presets, *known.synonyms], incomplete)


def target_names(incomplete: str) -> Iterator[str]:
    """The targets whose names begin so.

    >>> list(target_names("ort-cpu"))
    ['ort-cpu', 'ort-cpu-integer']
    """
    names = sorted(file.stem for file in (_CHECKOUT / "bct_onnx" / "targets").glob("*.toml"))
    return _begun(names, incomplete)


def pass_names(incomplete: str) -> Iterator[str]:
    """The pipeline typed so far, its last name completed.

    >>> list(pass_names("normalize,fuse-ge"))
    ['normalize,fuse-gelu']
    """
    before, comma, begun = incomplete.rpartition(",")
    files = sorted((_CHECKOUT / "passes").glob("[a-z]*.py"))
    for name in (file.stem.replace("_", "-") for file in files):
        if name.startswith(begun):
            yield f"{before}{comma}{name}"


def listed_names(incomplete: str) -> Iterator[str]:
    """What ``list`` explains: the three kinds, and each name."""
    yield from _begun(("presets", "targets", "passes"), incomplete)
    yield from preset_names(incomplete)
    yield from target_names(incomplete)
    yield from pass_names(incomplete)


def calibration_columns(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """The columns of the file given with --calibrate."""
    return _columns(ctx.params.get("calibrate"), incomplete)


def data_columns(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """The columns of the file given with --data."""
    return _columns(ctx.params.get("data"), incomplete)


def _columns(file: object, incomplete: str) -> Iterator[str]:
    """The names in the first line of a table; the last of several, joined by commas, is the one that is typed."""
    path = Path(str(file))
    if file is None or not path.is_file():
        return
    before, comma, begun = incomplete.rpartition(",")
    for name in _header(path):
        if name.startswith(begun):
            yield f"{before}{comma}{name}"


def _header(path: Path) -> list[str]:
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        line = file.readline()
    kind = path.suffix.lower()
    if kind == ".jsonl":
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            return []
        if isinstance(row, dict):
            return list(row)
        return []
    if kind not in (".csv", ".tsv"):
        return []
    return next(csv.reader([line], delimiter="\t" if kind == ".tsv" else ","), [])


def _begun(names: Iterable[str], incomplete: str) -> Iterator[str]:
    """The names that go on from what is typed."""
    return (name for name in names if name.startswith(incomplete))
