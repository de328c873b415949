"""The evaluation loop: every model on every batch of a task, side by side, so that their times and outputs compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import onnxruntime as ort

from bct_onnx.tasks.deviation import Deviation, DeviationSums
from bct_onnx.tasks.feeding import Cached, Feeder
from bct_onnx.tasks.tokens import Array, Batch, Tokens, batches


class Task(Protocol):
    """What to run a model on and how to score it."""

    @property
    def tokens(self) -> Tokens:
        """The sequences to run."""

    @property
    def logits(self) -> bool:
        """Whether the rows are logits, so that their softmax and largest column mean something."""

    def output(self, outputs: Mapping[str, int]) -> str:
        """The output this task reads, from the names and ranks of all (-1 if not declared)."""

    def rows(self, output: Array, batch: Batch) -> Iterable[Array]:
        """What counts of the output, per sequence of the batch: [columns] or [positions, columns]."""

    def result(self, row: Array, index: int) -> Any:
        """What the metrics need of one sequence's rows."""

    def metrics(self, results: Sequence[Any]) -> dict[str, float]:
        """The figures from the results of all sequences in their order, the most important first."""


@dataclass(frozen=True)
class Score:
    """One model's figures on a task, and the time ONNX Runtime took for it."""

    metrics: Mapping[str, float]
    deviation: Deviation | None
    """From the first model; None for the first itself, or where shapes differ."""
    sequences: int
    batches: int
    seconds: float

    @property
    def batch_ms(self) -> float:
        """Mean time per batch in milliseconds."""
        return self.seconds / self.batches * 1e3


def drop_unit(task: str) -> str:
    """What a drop of a task's score is counted in: points, or percent of a perplexity."""
    if task == "perplexity":
        return "percent"
    return "points"


def drop(task: str, reference: float, score: float) -> float:
    """How much worse a score is than that of the reference, in `drop_unit`; of a perplexity less is better."""
    if drop_unit(task) == "percent":
        return 100.0 * (score / reference - 1.0)
    return reference - score


def evaluate(
    models: Mapping[str, ort.InferenceSession | Cached],
    task: Task,
    *,
    batch: int = 32,
    track: Callable[[Sequence[Batch]], Iterable[Batch]] = iter,
) -> dict[str, Score]:
    """Run all models on all sequences of a task.

    Args:
        models: The models by name; the first is the reference of the others' deviation.
        task: What to run and how to score it.
        batch: Sequences at a time; a model with a fixed batch size gets that many.
        track: Wraps the batches, for a progress bar.

    Raises:
        UsageError: A model lacks what the task needs, or the sequences do not fit into it.
        TargetError: A model fails to run.
    """
    running = {name: _Model(model, task) for name, model in models.items()}
    reference, *others = running.values()
    prepared = list(batches(task.tokens, batch))
    for sequences in track(prepared):
        expected = reference.run(sequences)
        for model in others:
            model.compare(expected, model.run(sequences))
    return {name: model.score(len(prepared), first=model is reference) for name, model in running.items()}


class _Model:
    """One model on its way through the batches."""

    def __init__(self, model: ort.InferenceSession | Cached, task: Task) -> None:
        session = model.session if isinstance(model, Cached) else model
        ranks = {o.name: len(o.shape) if o.shape else -1 for o in session.get_outputs()}
        self._task = task
        self._feeder = Feeder(model, task.output(ranks), task.tokens.pad)
        self._deviation = DeviationSums(logits=task.logits)
        self._results: list[Any] = [None] * len(task.tokens.ids)

    def run(self, batch: Batch) -> dict[int, Array]:
        """Rows by the number of their sequence."""
        by_index = {}
        for piece, output in self._feeder.outputs(batch):
            rows = self._task.rows(output, piece)
            for index, row in zip(piece.index.tolist(), rows, strict=False):  # rows that only fill up have no index
                by_index[index] = row
                self._results[index] = self._task.result(row, index)
        return by_index

    def compare(self, expected: Mapping[int, Array], rows: Mapping[int, Array]) -> None:
        for index, row in rows.items():
            self._deviation.add(expected[index], row)

    def score(self, count: int, *, first: bool) -> Score:
        deviation = None if first else self._deviation.total()
        return Score(self._task.metrics(self._results), deviation, len(self._results), count, self._feeder.seconds)
