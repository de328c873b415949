"""Make pairs of a sentence and a passage, as in question answering, out of any text.

``python -m models.pairs TEXT.txt PAIRS.tsv --tokenizer DIR``: lines of sentences in, rows of `sentence1` and
`sentence2` out. A passage is some lines that follow each other; how long it is, is drawn, so that batches have as much
padding as those of real pairs (QNLI: 47 % of the positions of 32 pairs of up to 256 tokens are tokens). The share is
printed, and it is an error if it lies outside of 45 to 50 %.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from bct_onnx.tasks.texts import TextBatches

PAIRS, BATCH, LENGTH = 640, 32, 256
"""Rows, pairs of a batch, and tokens to which a pair is cut."""

MEDIAN, SPREAD = 40.0, 0.6
"""Words of a passage: they are drawn from a log-normal distribution with this median and this deviation of the
logarithm, and so many lines are taken that they have at least as many."""

REAL = (0.45, 0.50)
"""Share of tokens in all positions."""


def pairs(lines: Sequence[str], count: int = PAIRS, seed: int = 0) -> list[tuple[str, str]]:
    """A sentence and the passage behind it, so many times.

    >>> len(pairs(["a b c", "d e", "f"], 2)), pairs(["a", "b"], 1)[0][0] in ("a", "b")
    (2, True)
    """
    drawn = random.Random(seed)
    made = []
    for _ in range(count):
        start, words = drawn.randrange(len(lines)), drawn.lognormvariate(0.0, SPREAD) * MEDIAN
        passage: list[str] = []
        for number in range(1, len(lines)):
            if len(passage) >= words:
                break
            passage += lines[(start + number) % len(lines)].split()
        made.append((" ".join(lines[start].split()), " ".join(passage)))
    return made


def main() -> int:
    """Write the pairs of a text, and print the share of tokens in batches of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="DIR")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    lines = [line for line in options.text.read_text("utf-8").splitlines() if line.strip()]
    rows = [("sentence1", "sentence2"), *pairs(lines, options.pairs, options.seed)]
    options.output.write_text("".join(f"{first}\t{second}\n" for first, second in rows), "utf-8")
    columns = ("sentence1", "sentence2")
    made = TextBatches.read(options.output, options.tokenizer, size=BATCH, columns=columns, length=LENGTH)
    longest = max(batch.mask.shape[1] for batch in made.batches)
    print(
        f"{made.texts} pairs of up to {longest} tokens: {100 * made.real:.1f} % of all positions in batches of {BATCH}"
    )
    return 0 if REAL[0] <= made.real <= REAL[1] else 1


if __name__ == "__main__":
    sys.exit(main())
