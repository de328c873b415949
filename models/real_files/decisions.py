"""What outputs are read for: one choice after the other, and how near to another choice each was."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Outputs = Sequence[npt.NDArray[Any]]
Scores = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Reading:
    """How outputs are read.

    Attributes:
        scores: Of all choices that the outputs of one sample stand for [choices, classes]: the highest is chosen.
        answer: What is made of the choices [choices].
    """

    scores: Callable[[Outputs], Scores]
    answer: Callable[[npt.NDArray[np.int64]], tuple[int, ...]] = tuple

    def read(self, outputs: Outputs) -> tuple[int, ...]:
        """The answer."""
        return self.answer(self.scores(outputs).argmax(-1))


@dataclasses.dataclass(frozen=True)
class Turned:
    """Choices that came out otherwise.

    Attributes:
        count: How many, and of how many.
        gap: By how much the source preferred its own choice to the one that came, at most over all that turned.
        usual: By how much it prefers its best to its second, the median of all choices.
    """

    count: tuple[int, int]
    gap: float
    usual: float


def turned(reading: Reading, before: Sequence[Outputs], after: Sequence[Outputs]) -> Turned | None:
    """What turned from the outputs ``before`` to those ``after``, sample by sample; None where their number differs."""
    gaps: list[Scores] = []
    usual: list[Scores] = []
    for reference, candidate in zip(before, after, strict=True):
        scores, others = reading.scores(reference), reading.scores(candidate)
        if scores.shape != others.shape:
            return None
        rows, best, chosen = np.arange(len(scores)), scores.argmax(-1), others.argmax(-1)
        gaps.append((scores[rows, best] - scores[rows, chosen])[best != chosen])
        second, first = np.sort(scores, -1)[:, -2:].T
        usual.append(first - second)
    gap, margins = np.concatenate(gaps), np.concatenate(usual)
    return Turned((len(gap), len(margins)), float(gap.max(initial=0.0)), float(np.median(margins)))


def best_of(outputs: Outputs) -> Scores:
    """The first output has a score for each class on its last axis."""
    return np.asarray(outputs[0].reshape(-1, outputs[0].shape[-1]), np.float64)


def best_of_probabilities(outputs: Outputs) -> Scores:
    """The same in nats where it gives probabilities."""
    return np.log(np.maximum(best_of(outputs), 1e-30))


def above(threshold: float) -> Callable[[Outputs], Scores]:
    """Each number of the first output is a yes above ``threshold``."""

    def scores(outputs: Outputs) -> Scores:
        distance = outputs[0].reshape(-1).astype(np.float64) - threshold
        return np.stack([-distance, distance], -1)

    return scores


def spindles(outputs: Outputs) -> Scores:
    """Whether there is a spindle in each second: the first of three numbers [1, seconds, 3] is a yes above 0."""
    return above(0.0)([outputs[0][..., 0]])


def seen(outputs: Outputs) -> Scores:
    """The likeliest thing, and then of each whether it is more likely there than not."""
    likely = outputs[0].reshape(-1).astype(np.float64)
    each = above(0.5)(outputs)
    rest = np.full((len(likely), len(likely) - 2), -1e9)
    return np.concatenate([likely[None], np.concatenate([each, rest], -1)])


def nearest(outputs: Outputs) -> Scores:
    """Each row of the last output chooses the row that is nearest by cosine; itself is left out."""
    vectors = outputs[-1] / np.linalg.norm(outputs[-1], axis=-1, keepdims=True)
    return np.asarray(vectors @ vectors.T - 2 * np.eye(len(vectors)), np.float64)


def spoken(outputs: Outputs) -> Scores:
    """How long a sound is, in tenths of a second: words said at another speed give another one."""
    lengths = np.zeros((1, 1000))
    lengths[0, round(outputs[0].size / 2205)] = 1
    return lengths


def characters(choices: npt.NDArray[np.int64]) -> tuple[int, ...]:
    """What was read, as numbers of characters: repetitions and blanks (0) left out."""
    kept = np.flatnonzero(np.diff(choices, prepend=0) != 0)
    return tuple(int(choice) for choice in choices[kept] if choice)
