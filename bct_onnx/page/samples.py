"""Outputs of the source and of the result side by side: on sentences where there is a tokenizer, else on numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from bct_onnx.errors import TargetError, UsageError
from bct_onnx.runtime.session import run
from bct_onnx.runtime.understanding import Sampler
from bct_onnx.tasks.feeding import Feeder
from bct_onnx.tasks.settings import settings
from bct_onnx.tasks.tokens import Array, Batch, TextTokenizer, batches

TEXTS = (
    "A woman is slicing an onion.",
    "Someone cuts up a vegetable.",
    "The train to the coast leaves at noon.",
    "I loved every minute of this film.",
)
_NUMBERS = 6
_MOST_ANSWERS = 64


@dataclasses.dataclass(frozen=True)
class Samples:
    """Rows of a table.

    Attributes:
        about: What is shown, in a sentence.
        rows: What it is of, what the source gives, and what the result gives.
        figure: What all of them say together: a number, and what it is of; empty where they say nothing.
    """

    about: str
    rows: tuple[tuple[str, str, str], ...]
    figure: tuple[str, str] = ("", "")


def samples(sampler: Sampler, before: ort.InferenceSession, after: ort.InferenceSession, tokenizer: Path) -> Samples:
    """What both models say; ``tokenizer`` is the folder in which one may lie.

    Raises:
        TargetError: A model does not run.
    """
    if (tokenizer / "tokenizer.json").is_file():
        with contextlib.suppress(UsageError):  # no tokenizers installed, no token ids, or no room for these texts
            return _of_texts(before, after, tokenizer)
    return _of_numbers(sampler, before, after)


def _of_texts(before: ort.InferenceSession, after: ort.InferenceSession, folder: Path) -> Samples:
    encoder = TextTokenizer(folder, max_length=64)
    prepared = list(batches(encoder.encode(TEXTS), len(TEXTS)))
    first = before.get_outputs()[0].name
    left, right = (_rows(model, first, prepared, encoder.pad) for model in (before, after))
    if first != "logits" and left[0].ndim <= 2:
        return _pairs(left, right)
    if left[0].ndim == 1 and left[0].size <= _MOST_ANSWERS:
        return _answers(left, right, settings(folder / "config.json").get("id2label") or {})
    if left[0].ndim == 2:
        return _agreeing(left, right)
    raise UsageError("the outputs are of no kind that is known", where=first)


def _rows(model: ort.InferenceSession, output: str, prepared: list[Batch], pad: int) -> list[Array]:
    """The output of each text, without what padding gave."""
    feeder, rows = Feeder(model, output, pad), dict[int, Array]()
    for batch in prepared:
        for piece, values in feeder.outputs(batch):
            for index, value, mask in zip(piece.index.tolist(), values, piece.mask, strict=False):
                rows[index] = value[mask.astype(bool)] if value.ndim == 2 else value
    return [rows[index] for index in sorted(rows)]


def _pairs(left: list[Array], right: list[Array]) -> Samples:
    both = [list(map(_unit, rows)) for rows in (left, right)]
    rows, moved = [], 0.0
    for i, j in itertools.combinations(range(len(TEXTS)), 2):
        mine, theirs = (float(units[i] @ units[j]) for units in both)
        moved = max(moved, abs(mine - theirs))
        rows.append((f"{TEXTS[i]} / {TEXTS[j]}", f"{mine:.3f}", f"{theirs:.3f}"))
    about = "Cosine similarity of two sentences, by the mean of their vectors."
    return Samples(about, tuple(rows), (f"{moved:.3f}", "is the most that similarities of sentences move"))


def _unit(row: Array) -> Array:
    vector: Array = row.astype(np.float64).mean(axis=0) if row.ndim == 2 else row.astype(np.float64)
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def _answers(left: list[Array], right: list[Array], labels: dict[str, str]) -> Samples:
    rows, same = [], 0
    for words, mine, theirs in zip(TEXTS, left, right, strict=True):
        rows.append((words, _answer(mine, labels), _answer(theirs, labels)))
        same += int(mine.argmax() == theirs.argmax())
    figure = (f"{same} of {len(rows)}", "answers to sentences are the same") if left[0].size > 1 else ("", "")
    return Samples("The answer to a sentence, and its probability.", tuple(rows), figure)


def _answer(logits: Array, labels: dict[str, str]) -> str:
    if logits.size == 1:
        return f"{float(logits[0]):.3f}"
    powers = np.exp(logits.astype(np.float64) - logits.max())
    best = int(powers.argmax())
    return f"{labels.get(str(best), f'class {best}')} ({powers[best] / powers.sum():.2f})"


def _agreeing(left: list[Array], right: list[Array]) -> Samples:
    rows, same, total = [], 0, 0
    for words, mine, theirs in zip(TEXTS, left, right, strict=True):
        equal = int((mine.argmax(axis=-1) == theirs.argmax(axis=-1)).sum())
        rows.append((words, f"{len(mine)} positions", f"{equal} the same"))
        same, total = same + equal, total + len(mine)
    about = "Positions of a sentence at which the best answer is the same."
    return Samples(about, tuple(rows), (f"{same} of {total}", "answers within sentences are the same"))


def _of_numbers(sampler: Sampler, before: ort.InferenceSession, after: ort.InferenceSession) -> Samples:
    feeds = sampler.sample(1, 16, seed=7, family="check")
    try:
        outputs = zip(before.get_outputs(), run(before, feeds), run(after, feeds), strict=True)
    except UsageError as error:
        raise TargetError("the result takes other inputs than the source", why=error.what) from error
    rows = tuple(_numbers(output.name, mine, theirs) for output, mine, theirs in outputs if _is_shown(mine))
    return Samples(f"The first {_NUMBERS} numbers of each output, on made-up inputs.", rows[:_NUMBERS])


def _is_shown(output: Any) -> bool:
    return isinstance(output, np.ndarray) and output.dtype.kind == "f" and output.size > 0


def _numbers(name: str, before: Array, after: Array) -> tuple[str, str, str]:
    mine, theirs = (" ".join(f"{value:.3g}" for value in array.ravel()[:_NUMBERS]) for array in (before, after))
    return name, mine, theirs
