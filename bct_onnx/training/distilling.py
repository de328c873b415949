"""Steps of distillation, and the gate: a run that does not beat its start on held-back samples returns the start."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from bct_onnx.graph import tensors
from bct_onnx.progress import tell
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.partial import Partial
from bct_onnx.training import loss
from bct_onnx.training.operators import OPERATORS
from bct_onnx.training.region import Region
from bct_onnx.training.student import Student, Used

__all__ = ["OPERATORS", "Course", "Distillation", "Outcome"]

RATE_SCALES, RATE_FLOATS = 3e-4, 1e-4
"""Learning rates of logarithms of scales, and of norms and biases."""

BETAS = (0.9, 0.99)
"""Of Adam's running means."""

JUDGED = 8
"""How often held-back samples are looked at, the start apart."""


@dataclasses.dataclass(frozen=True)
class Course:
    """How long and how fast a student learns.

    Attributes:
        steps: Updates.
        batch: Sequences for each of them, at least.
        rate: Learning rate of codes, in steps of rounding; it falls to zero along a cosine.
        seed: Of the order of the batches.
        keeps_best: Whether an interrupt ends the run at its best so far; otherwise it ends everything.
    """

    steps: int
    batch: int
    rate: float
    seed: int
    keeps_best: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run has brought.

    Attributes:
        before: Error of the outputs on held-back samples at the start (see `bct_onnx.training.loss`).
        after: The least that was reached; `before` where none was less.
        step: After how many steps; 0 is the start.
    """

    before: float
    after: float
    step: int


class Distillation:
    """A student, its teacher and what they read.

    Args:
        model: The model as it is stored.
        before: The model as it was before, whose values have the same names.
        region: The part of the first that is trained.
        samples: Batches to learn from.
        held_back: Batches to judge by.

    Raises:
        TargetError: ONNX Runtime cannot run one of the models.
    """

    def __init__(
        self, model: ir.Model, before: ir.Model, region: Region, samples: Sequence[Feeds], held_back: Sequence[Feeds]
    ) -> None:
        hidden = tuple(name for name in _alike(model, before, region.hidden) if name not in region.outputs)
        self._region, self._samples, self._held_back = dataclasses.replace(region, hidden=hidden), samples, held_back
        self._wanted = [*region.outputs, *hidden]
        self._teacher = Partial(before, self._wanted)
        self.student = Student(model, region, _used(model, region, [*samples, *held_back]))

    def run(self, course: Course) -> Outcome:
        """Let the student learn; it is left at its best."""
        codes, scales, floats = self.student.parameters()
        groups = [
            {"params": codes, "lr": course.rate},
            {"params": scales, "lr": RATE_SCALES},
            {"params": floats, "lr": RATE_FLOATS},
        ]
        adam = torch.optim.Adam([group for group in groups if group["params"]], betas=BETAS)
        cosine = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: _cosine(step, course.steps))
        before = self._judged()
        best, best_step, kept = before, 0, self.student.state()
        batches = _endless(self._samples, course)
        every = max(1, course.steps // JUDGED)
        try:
            for step in range(1, course.steps + 1):
                adam.zero_grad()
                self._learn_from(next(batches))
                adam.step()
                cosine.step()
                if step % every == 0 or step == course.steps:
                    now = self._judged()
                    if now < best:
                        best, best_step, kept = now, step, self.student.state()
                tell(f"step {step} of {course.steps}, held-back error {before:.4g} -> {best:.4g}")
        except KeyboardInterrupt:
            if not course.keeps_best:
                raise
        self.student.restore(kept)
        return Outcome(before, best, best_step)

    def _learn_from(self, batches: Sequence[Feeds]) -> None:
        """Add up the derivatives of some batches, each by its share of the rows."""
        rows = sum(_rows(feeds) for feeds in batches)
        for feeds in batches:
            result, expected = self._both(feeds)
            error = loss.of_outputs(self._region, result, expected) + loss.of_hidden(self._region, result, expected)
            (error * (_rows(feeds) / rows)).backward()

    def _judged(self) -> float:
        """Mean error of the outputs on what was held back."""
        total = rows = 0.0
        with torch.no_grad():
            for feeds in self._held_back:
                result, expected = self._both(feeds)
                total += _rows(feeds) * float(loss.of_outputs(self._region, result, expected))
                rows += _rows(feeds)
        return total / rows

    def _both(self, feeds: Feeds) -> tuple[dict[str, torch.Tensor], Feeds]:
        return self.student(feeds, self._wanted), self._teacher(feeds)


def _alike(model: ir.Model, before: ir.Model, names: Sequence[str]) -> list[str]:
    """The normalizations of both models with the same constants: others were scaled since, or are gone."""
    alike: list[str] = []
    makers = [{output.name or "": node for node in each.graph for output in node.outputs} for each in (model, before)]
    for name in names:
        constants = [_constants(maker[name]) if name in maker else [] for maker in makers]
        if len(constants[0]) == len(constants[1]) and all(map(np.array_equal, *constants)):
            alike.append(name)
    return alike


def _constants(node: ir.Node) -> list[np.ndarray[Any, Any]]:
    return [tensors.array(value) for value in node.inputs[1:] if value is not None and value.const_value is not None]


def _used(model: ir.Model, region: Region, batches: Sequence[Feeds]) -> Used:
    """The rows that batches look up in each table."""
    lookups = list(region.lookups.values())
    computed = [lookup.indices.name or "" for lookup in lookups if lookup.indices.producer() is not None]
    partial = Partial(model, computed)
    rows: dict[str, set[int]] = {lookup.codes: set() for lookup in lookups}
    for feeds in batches:
        known = {**feeds, **partial(feeds)}
        for lookup in lookups:
            constant = lookup.indices.const_value
            indices = known[lookup.indices.name or ""] if constant is None else constant.numpy()
            rows[lookup.codes].update((indices.ravel() % lookup.table.count).tolist())
    return {name: np.array(sorted(found), np.intp) for name, found in rows.items()}


def _endless(samples: Sequence[Feeds], course: Course) -> Iterator[list[Feeds]]:
    """Batches in an order of their own in every epoch, together as many rows as a step takes."""
    generator = np.random.default_rng(course.seed)
    waiting: list[Feeds] = []
    while True:
        for number in generator.permutation(len(samples)):
            waiting.append(samples[number])
            if sum(_rows(feeds) for feeds in waiting) >= course.batch:
                yield waiting
                waiting = []


def _cosine(step: int, steps: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(step, steps) / steps))


def _rows(feeds: Feeds) -> int:
    return max((len(array) for array in feeds.values() if array.ndim), default=1)
