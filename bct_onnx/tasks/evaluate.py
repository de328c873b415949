"""The evaluation loop: every model on every batch of a task, side by side, so that their times compare."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort

from bct_onnx.errors import UsageError
from bct_onnx.runtime.feeds import Feeds, random_feeds
from bct_onnx.runtime.inputs import Input, inputs_of
from bct_onnx.runtime.session import run
from bct_onnx.tasks.tokens import Array, Batch, Tokens, batches


class Task(Protocol):
    """What to run a model on and how to score it."""

    @property
    def tokens(self) -> Tokens:
        """The sequences to run."""

    def output(self, outputs: Mapping[str, int]) -> str:
        """The output this task reads, from the names and ranks of all (-1 if not declared)."""

    def results(self, output: Array, batch: Batch) -> Iterable[Any]:
        """One result per row of the batch."""

    def metrics(self, results: Sequence[Any]) -> dict[str, float]:
        """The figures from the results of all sequences in their order, the most important first."""


@dataclass(frozen=True)
class Score:
    """One model's figures on a task, and the time ONNX Runtime took for it."""

    metrics: Mapping[str, float]
    sequences: int
    batches: int
    seconds: float

    @property
    def batch_ms(self) -> float:
        """Mean time per batch in milliseconds."""
        return self.seconds / self.batches * 1e3


def evaluate(
    sessions: Mapping[str, ort.InferenceSession],
    task: Task,
    *,
    batch: int = 32,
    track: Callable[[Sequence[Batch]], Iterable[Batch]] = iter,
) -> dict[str, Score]:
    """Run all models on all sequences of a task.

    Args:
        sessions: The models by name.
        task: What to run and how to score it.
        batch: Sequences at a time; a model with a fixed batch size gets that many.
        track: Wraps the batches, for a progress bar.

    Raises:
        UsageError: A model lacks what the task needs, or the sequences do not fit into it.
        TargetError: A model fails to run.
    """
    models = {name: _Model(session, task) for name, session in sessions.items()}
    prepared = list(batches(task.tokens, batch))
    for one in track(prepared):
        for model in models.values():
            model.add(one)
    return {name: model.score(len(prepared)) for name, model in models.items()}


class _Model:
    """One model on its way through the batches."""

    def __init__(self, session: ort.InferenceSession, task: Task) -> None:
        self._session, self._task = session, task
        self._inputs = inputs_of(session)
        self._ids = _ids_input(self._inputs)
        ranks = {o.name: len(o.shape) if o.shape else -1 for o in session.get_outputs()}
        self._output = task.output(ranks)
        self._results: list[Any] = [None] * len(task.tokens.ids)
        self._seconds = 0.0

    def add(self, batch: Batch) -> None:
        masked = any(i.name == "attention_mask" for i in self._inputs)
        for piece in _pieces(batch, self._ids.shape, masked, self._task.tokens.pad):
            feeds = self._feeds(piece)
            start = time.perf_counter()
            (output,) = run(self._session, feeds, [self._output])
            self._seconds += time.perf_counter() - start
            rows = self._task.results(output, piece)
            for index, result in zip(piece.index, rows, strict=False):  # rows that only fill up have no index
                self._results[index] = result

    def score(self, count: int) -> Score:
        return Score(self._task.metrics(self._results), len(self._results), count, self._seconds)

    def _feeds(self, piece: Batch) -> Feeds:
        rows, length = piece.ids.shape
        feeds = random_feeds(self._inputs, batch=rows, sequence=length)  # empty caches, positions
        ours = {self._ids.name: piece.ids, "attention_mask": piece.mask, "token_type_ids": piece.types}
        for name, array in ours.items():
            if name in feeds:
                feeds[name] = array.astype(feeds[name].dtype)
        return feeds


def _ids_input(inputs: Sequence[Input]) -> Input:
    found = next((i for i in inputs if i.name == "input_ids"), None)
    found = found or next((i for i in inputs if i.dtype.kind == "i" and len(i.shape) == 2 and "ids" in i.name), None)
    if found is None:
        raise UsageError("the model has no input of token ids", why=f"inputs are {', '.join(i.name for i in inputs)}")
    return found


def _pieces(batch: Batch, shape: Sequence[int | str | None], masked: bool, pad: int) -> Iterator[Batch]:
    """The batch as this model can take it: in its fixed sizes, and in equal lengths when it has no mask for padding."""
    rows, length = (dim if isinstance(dim, int) else None for dim in shape)
    lengths = batch.mask.sum(axis=1)
    groups = [np.arange(len(lengths))] if masked else [np.flatnonzero(lengths == n) for n in np.unique(lengths)]
    for group in groups:
        width = max(1, int(lengths[group].max()))
        if length is not None and (width > length or (not masked and width < length)):
            raise UsageError(
                f"a sequence of {width} tokens does not fit a model with a fixed length of {length}",
                fix="lower --max-length, or export the model with a dynamic sequence length",
            )
        for start in range(0, len(group), rows or len(group)):
            part = group[start : start + (rows or len(group))]
            fill = np.resize(part, rows or len(part))
            grow = ((0, 0), (0, (length or width) - width))
            ids = np.pad(batch.ids[fill, :width], grow, constant_values=pad)
            mask, types = (np.pad(array[fill, :width], grow) for array in (batch.mask, batch.types))
            yield Batch(batch.index[part], ids, mask, types)
