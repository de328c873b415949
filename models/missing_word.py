"""Make a task of many classes of any text: which word is missing?

``python models/missing_word.py TRAIN.txt TRAIN.csv TEST.txt TEST.csv``: lines of words in, rows of a text with [MASK]
and a class out. The classes are the most frequent words of the first text; each has as many rows. `models/finetune.py`
trains a checkpoint on them.
"""

from __future__ import annotations

import argparse
import collections
import csv
import random
import sys
from collections.abc import Sequence
from pathlib import Path

CLASSES, ROWS, LEAST = 40, 100, 5
"""Words, rows of each, and words that a line has at least."""

NO_WORDS = frozenset({"<unk>", "N", "$"})


def frequent(lines: Sequence[str], count: int = CLASSES) -> list[str]:
    """The most frequent words, the first of equals first.

    >>> frequent(["the cat saw the <unk>", "the cat"], 2)
    ['the', 'cat']
    """
    words = collections.Counter(word for line in lines for word in line.split() if word not in NO_WORDS)
    return [word for word, _ in words.most_common(count)]


def rows(lines: Sequence[str], words: Sequence[str], each: int = ROWS, seed: int = 0) -> list[tuple[str, int]]:
    """Texts without one of the words, and which it was; as many of each word, no line twice for the same word.

    >>> rows(["the cat saw the dog today", "the end"], ["the", "cat"])
    [('[MASK] cat saw the dog today', 0), ('the [MASK] saw the dog today', 1)]
    """
    split = [line.split() for line in lines]
    found: list[tuple[str, int]] = []
    for number, word in enumerate(words):
        places = [(line, line.index(word)) for line in split if len(line) >= LEAST and word in line]
        chosen = random.Random(seed + number).sample(places, min(each, len(places)))
        found += [(" ".join([*line[:at], "[MASK]", *line[at + 1 :]]), number) for line, at in chosen]
    return found


def main() -> int:
    """Write the rows of two texts, with the words of the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("train", "train_rows", "test", "test_rows"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    words = frequent(options.train.read_text("utf-8").splitlines())
    for text, made in ((options.train, options.train_rows), (options.test, options.test_rows)):
        with made.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows(text.read_text("utf-8").splitlines(), words))
    print(" ".join(words), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
