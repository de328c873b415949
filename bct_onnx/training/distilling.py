"""Steps of distillation, and the gate: a run that does not beat its start on held-back samples returns the start."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from bct_onnx import digest
from bct_onnx.errors import Interrupted
from bct_onnx.graph import tensors
from bct_onnx.graph.names import names_of
from bct_onnx.graph.neighbours import provided
from bct_onnx.progress import tell
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.partial import Partial
from bct_onnx.training import loss
from bct_onnx.training.operators import OPERATORS
from bct_onnx.training.region import Region
from bct_onnx.training.student import Decoded, Student, Used
from bct_onnx.training.unfinished import Unfinished

__all__ = ["OPERATORS", "Course", "Distillation", "Outcome"]

RATE_SCALES, RATE_FLOATS = 6e-4, 2e-4
"""Learning rates of logarithms of scales, and of norms and biases."""

WORSE, SLOWER = 1.1, 1 / 3
"""A student whose error is so many times its least goes on from there, at so many times the rates."""

BETAS = (0.9, 0.99)
"""Of Adam's running means."""

JUDGED = 8
"""How often held-back samples are looked at, the start apart. Codes wait for the first look: what norms, biases and
scales gain is safe before a code moves."""


@dataclasses.dataclass(frozen=True)
class Course:
    """How long and how fast a student learns.

    Attributes:
        steps: Updates.
        batch: Sequences for each of them, at least.
        rate: Learning rate of codes, in steps of rounding; it falls to zero along a cosine.
        seed: Of the order of the batches.
        keeps_best: Whether an interrupt ends the run at its best so far; otherwise it ends everything.
        unfinished: File in which a run keeps what it has got so far; None keeps nothing.
        resumes: Whether a run goes on with what is there.
    """

    steps: int
    batch: int
    rate: float
    seed: int
    keeps_best: bool = False
    unfinished: Path | None = None
    resumes: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run has brought.

    Attributes:
        before: Error of the outputs on held-back samples at the start (see `bct_onnx.training.loss`).
        after: The least that was reached; `before` where none was less.
        step: After how many steps; 0 is the start.
        resumed: The step after which it went on with what another run had left; 0 where it began anew.
    """

    before: float
    after: float
    step: int
    resumed: int = 0


@dataclasses.dataclass
class _Best:
    """The best that a run has got so far.

    Attributes:
        before: Error at the start.
        error: The least.
        step: After how many steps.
        state: What the student was then.
    """

    before: float
    error: float
    step: int
    state: list[torch.Tensor]


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
        self._samples, self._held_back = samples, held_back
        self.student = Student(model, region, _used(model, region, [*samples, *held_back]))
        self._factors = _comparable(model, before, [name for name in region.hidden if name not in region.outputs])
        self._region = dataclasses.replace(region, hidden=tuple(self._factors))
        self._teacher = Partial(before, [*region.outputs, *self._factors])
        unlike = self._unlike(held_back[0])
        if unlike:
            self._factors = {name: factor for name, factor in self._factors.items() if name not in unlike}
            self._region = dataclasses.replace(region, hidden=tuple(self._factors))
            self._teacher = Partial(before, [*region.outputs, *self._factors])

    def run(self, course: Course) -> Outcome:
        """Let the student learn; it is left at its best."""
        codes, scales, floats = self.student.parameters()
        groups = (_group(codes, course.rate, waits=True), _group(scales, RATE_SCALES), _group(floats, RATE_FLOATS))
        adam = torch.optim.Adam([group for group in groups if group["params"]], betas=BETAS)
        unfinished = Unfinished(course.unfinished, self._key(course))
        best, done = self._begin(adam, unfinished if course.resumes else None)
        batches = itertools.islice(_endless(self._samples, course), done, None)
        every = max(1, course.steps // JUDGED)
        try:
            for step in range(done + 1, course.steps + 1):
                _set_rates(adam, step - 1, course.steps)
                adam.zero_grad()
                self._learn_from(next(batches))
                adam.step()
                if step % every == 0 or step == course.steps:
                    self._judge(adam, best, step)
                    self._leave(unfinished, adam, best, step)
                tell(f"step {step} of {course.steps}, held-back error {best.before:.4g} -> {best.error:.4g}")
        except (KeyboardInterrupt, Interrupted):
            if not course.keeps_best:
                raise
        self.student.restore(best.state)
        unfinished.remove()
        return Outcome(best.before, best.error, best.step, done)

    def _begin(self, adam: torch.optim.Optimizer, unfinished: Unfinished | None) -> tuple[_Best, int]:
        """The best so far, and the steps that are done: none but where a run goes on with what another has left."""
        left = None if unfinished is None else unfinished.read()
        if left is None:
            error = self._judged()
            return _Best(error, error, 0, self.student.state()), 0
        self.student.restore(left["student"])
        adam.load_state_dict(left["adam"])
        return _Best(*left["best"]), left["step"]

    def _judge(self, adam: torch.optim.Optimizer, best: _Best, step: int) -> None:
        """Remember the student where it is better than ever; where it is lost, go on from the best, more slowly."""
        error = self._judged()
        if error < best.error:
            best.error, best.step, best.state = error, step, self.student.state()
        elif error > WORSE * best.error or math.isnan(error):
            self.student.restore(best.state)
            adam.state.clear()
            for group in adam.param_groups:
                group["rate"] *= SLOWER

    def _leave(self, unfinished: Unfinished, adam: torch.optim.Optimizer, best: _Best, step: int) -> None:
        """Keep all that another run needs to go on."""
        kept = (best.before, best.error, best.step, best.state)
        unfinished.write({"step": step, "student": self.student.state(), "adam": adam.state_dict(), "best": kept})

    def _key(self, course: Course) -> str:
        """Hash of what the run starts from, what it reads and how it learns."""
        rates = (course.rate, RATE_SCALES, RATE_FLOATS, WORSE, SLOWER, JUDGED)
        settings = (course.steps, course.batch, *rates, course.seed, torch.__version__)
        arrays = [value.numpy() for value in self.student.state()]
        for feeds in (*self._samples, *self._held_back):
            arrays += feeds.values()
        return digest.of_arrays(arrays, str(settings))

    def _learn_from(self, batches: Sequence[Feeds]) -> None:
        """Add up the derivatives of some batches, each by its share of the rows; what is stored is decoded once."""
        rows = sum(map(_rows, batches))
        decoded = self.student.decoded()
        weights = {codes: weight.detach().requires_grad_() for codes, weight in decoded.items()}
        for feeds in batches:
            result, expected = self._both(feeds, weights)
            error = loss.of_outputs(self._region, result, expected) + loss.of_hidden(self._region, result, expected)
            (error * (_rows(feeds) / rows)).backward()
        read = [codes for codes, weight in weights.items() if weight.grad is not None]
        torch.autograd.backward([decoded[codes] for codes in read], [weights[codes].grad for codes in read])

    def _judged(self) -> float:
        """Mean error of the outputs on what was held back."""
        total = rows = 0.0
        with torch.no_grad():
            decoded = self.student.decoded()
            for feeds in self._held_back:
                result, expected = self._both(feeds, decoded)
                total += _rows(feeds) * float(loss.of_outputs(self._region, result, expected))
                rows += _rows(feeds)
        return total / rows

    def _both(self, feeds: Feeds, decoded: Decoded) -> tuple[dict[str, torch.Tensor], Feeds]:
        """What the student makes of a batch, with its tensors as they are decoded, and what is expected."""
        result = self.student(feeds, [*self._region.outputs, *self._factors], decoded)
        for name, factor in self._factors.items():
            result[name] = result[name] * factor
        return result, self._teacher(feeds)

    def _unlike(self, feeds: Feeds) -> set[str]:
        """Hidden states of which the student does not compute every token, as nobody reads them."""
        with torch.no_grad():
            result, expected = self._both(feeds, self.student.decoded())
        return {name for name in self._factors if tuple(result[name].shape) != expected[name].shape}


def _makers(graph: ir.Graph) -> dict[str, ir.Node]:
    """The nodes of a graph by the names of what they make."""
    makers: dict[str, ir.Node] = {}
    for node in graph:
        makers |= dict.fromkeys(names_of(node.outputs), node)
    return makers


def _comparable(model: ir.Model, before: ir.Model, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """The normalizations that are in both models, with the factor that makes the first's output the second's: channels
    may have been scaled since."""
    makers = [_makers(model.graph), _makers(before.graph)]
    factors: dict[str, torch.Tensor] = {}
    for name in names:
        student, teacher = (_constants(maker[name]) if name in maker else [] for maker in makers)
        if not student or len(student) != len(teacher) or not student[0].all():
            continue
        factor = teacher[0] / student[0]
        pairs = zip(student, teacher, strict=True)
        if all(np.allclose(ours * factor, theirs, rtol=1e-3, atol=1e-5) for ours, theirs in pairs):
            factors[name] = torch.from_numpy(factor)
    return factors


def _constants(node: ir.Node) -> list[np.ndarray[Any, Any]]:
    """Scale and offset of a normalization, float32."""
    constants = provided(value.const_value for value in provided(node.inputs[1:]))
    return [tensors.array(constant).astype(np.float32) for constant in constants]


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
            if sum(map(_rows, waiting)) >= course.batch:
                yield waiting
                waiting = []


def _group(parameters: Sequence[torch.Tensor], rate: float, *, waits: bool = False) -> dict[str, Any]:
    """Parameters that learn at one rate, at once or when the others have had their share of the steps."""
    return {"params": list(parameters), "lr": 0.0, "rate": rate, "waits": waits}


def _set_rates(adam: torch.optim.Optimizer, step: int, steps: int) -> None:
    """How fast is learned in a step: rates fall to zero along a cosine."""
    falling = 0.5 * (1 + math.cos(math.pi * step / steps))
    for group in adam.param_groups:
        waiting = group["waits"] and step < steps // JUDGED
        group["lr"] = 0.0 if waiting else group["rate"] * falling


def _rows(feeds: Feeds) -> int:
    return max((len(array) for array in feeds.values() if array.ndim), default=1)
