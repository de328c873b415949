"""Requests with an intent each and a tag for every word, as in SNIPS: folders of ``seq.in``, ``label``, ``seq.out``.

Beside the folders of train, dev and test lie the names of all intents and tags: ``intent_label.txt``,
``slot_label.txt``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

Tagged = tuple[tuple[str, ...], tuple[str, ...]]
"""The words of a request, and the tag of each."""

RESERVED = ("UNK", "PAD")
"""Names in the files of labels that no word has."""


def names(folder: Path, kind: str) -> tuple[str, ...]:
    """The names of all intents, or of all tags ("slot")."""
    return tuple(name for name in _lines(folder.parent / f"{kind}_label.txt") if name not in RESERVED)


def read(folder: Path) -> list[tuple[str, str]]:
    """The requests of a folder, each with its intent."""
    return list(zip(_lines(folder / "seq.in"), _lines(folder / "label"), strict=True))


def tagged(folder: Path) -> list[Tagged]:
    """The requests of a folder as words with tags."""
    lines = zip(_lines(folder / "seq.in"), _lines(folder / "seq.out"), strict=True)
    return [(tuple(words.split()), tuple(tags.split())) for words, tags in lines]


def write_tagged(rows: Iterable[Tagged], path: Path) -> None:
    """Requests as lines of a word and its tag, with an empty line behind each."""
    with path.open("w", encoding="utf-8") as file:
        for words, tags in rows:
            file.writelines(f"{word} {tag}\n" for word, tag in zip(words, tags, strict=True))
            file.write("\n")


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
