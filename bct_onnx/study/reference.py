"""The model as it came, and how far candidates are from it: outputs, score and time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnxruntime as ort

from bct_onnx.figures import finite
from bct_onnx.progress import Progress
from bct_onnx.runtime.check_shapes import SHAPES
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.latency import Speedup, measure
from bct_onnx.runtime.parity import compare_outputs
from bct_onnx.runtime.session import run, session
from bct_onnx.runtime.understanding import Sampler
from bct_onnx.tasks.deviation import DeviationSums
from bct_onnx.tasks.evaluate import Task, evaluate
from bct_onnx.tasks.tokens import Batch

RANDOM = "seeded random tokens"

REPEATS = 4
"""Times that outputs are compared on each of the shapes: a classifier has few outputs."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """How far one candidate is from the model as it came.

    Attributes:
        sqnr_db: Signal over error of the outputs in dB; infinite when equal, NaN when not finite.
        kl: Mean KL divergence of the logits' distribution in nats; None where outputs are no logits.
        agreement: Fraction of positions with the same largest logit; None likewise.
        metrics: The task's scores, the most important first; empty without a task.
        drop: How much worse the first of them is: points, or percent of a perplexity; None without a task.
        faster: Times faster, by medians and by minima of interleaved rounds; None where nothing was timed.
    """

    sqnr_db: float
    kl: float | None = None
    agreement: float | None = None
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    drop: float | None = None
    faster: Speedup | None = None

    @property
    def noise(self) -> float:
        """Squared error over squared signal of the outputs; NaN when not finite."""
        return float(10 ** (-self.sqnr_db / 10))

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which has no infinity and no NaN."""
        return {
            "sqnr_db": finite(self.sqnr_db),
            "exact": self.sqnr_db == math.inf,
            "kl": finite(self.kl),
            "agreement": finite(self.agreement),
            "metrics": {name: finite(value) for name, value in self.metrics.items()},
            "drop": finite(self.drop),
            "times_faster_median": None if self.faster is None else self.faster.of_medians,
            "times_faster_min": None if self.faster is None else self.faster.of_minima,
        }


@dataclasses.dataclass(frozen=True)
class Measuring:
    """What to measure with.

    Attributes:
        task: The data and its score; None compares outputs on random tokens.
        name: The task's name; of a perplexity less is better.
        data: Where the task's data comes from, in words.
        batch: Sequences at a time.
        shape: Batch and sequence that are timed.
        rounds: Timed runs per model; 0 times nothing.
        threads: Threads within an operator; 0 leaves it to ONNX Runtime.
    """

    task: Task | None = None
    name: str = ""
    data: str = ""
    batch: int = 32
    shape: tuple[int, int] = (8, 128)
    rounds: int = 10
    threads: int = 1


class Reference:
    """The model as it came, in ONNX Runtime, to compare candidates with.

    Args:
        file: The model.
        model: The same, loaded.
        measuring: What to measure with.
        progress: Told about batches of the task.

    Raises:
        TargetError: ONNX Runtime cannot load it, or has to run it on random tokens and cannot.
    """

    def __init__(self, file: Path, model: ir.Model, measuring: Measuring, progress: Progress) -> None:
        self.measuring, self._progress = measuring, progress
        self._session = session(file, threads=measuring.threads)
        self._length = 0
        if measuring.rounds or measuring.task is None:
            longest = max(measuring.shape[1], *(length for _, length in SHAPES))
            self._sampler = Sampler(model, self._session)
            self._length = self._sampler.longest(longest)
        self._timed = self._feeds(*measuring.shape, seed=0) if measuring.rounds else None
        if measuring.task is None:
            self._samples = [
                self._feeds(*shape, seed=seed, padding=True) for seed, shape in enumerate(SHAPES * REPEATS)
            ]
            self._outputs = [run(self._session, feeds) for feeds in self._samples]
        self.scores: Mapping[str, float] = {}

    def compare_on(self, samples: Sequence[Feeds]) -> None:
        """Compare outputs on these inputs, where there is no task."""
        self._samples = list(samples)
        self._outputs = [run(self._session, feeds) for feeds in self._samples]

    @property
    def source(self) -> str:
        """What outputs are compared on, in words."""
        return self.measuring.data if self.measuring.task is not None else RANDOM

    @property
    def timed_shape(self) -> tuple[int, int] | None:
        """Batch and sequence that are timed: as wished, or as long as the model can."""
        if self._timed is None:
            return None
        return (self.measuring.shape[0], min(self.measuring.shape[1], self._length))

    def measure(self, files: Mapping[str, Path]) -> dict[str, Figures]:
        """Figures of candidates, which are loaded and run side by side.

        Raises:
            TargetError: ONNX Runtime cannot load or run a candidate.
        """
        sessions = {name: session(file, threads=self.measuring.threads) for name, file in files.items()}
        task = self.measuring.task
        figures = self._on_random(sessions) if task is None else self._on_task(sessions, task)
        if self._timed is None:
            return figures
        reference, *times = measure({"": self._session, **sessions}, self._timed, rounds=self.measuring.rounds).values()
        return {
            name: dataclasses.replace(figures[name], faster=time.speedup_over(reference))
            for name, time in zip(sessions, times, strict=True)
        }

    def _on_random(self, sessions: Mapping[str, ort.InferenceSession]) -> dict[str, Figures]:
        names = [output.name for output in self._session.get_outputs()]
        figures = {}
        for name, candidate in sessions.items():
            outputs = [run(candidate, feeds) for feeds in self._samples]
            parity = compare_outputs(self._outputs, outputs, names=names)
            sums = DeviationSums(logits="logits" in names)
            for expected, got in zip(self._outputs, outputs, strict=True):
                at = names.index("logits") if "logits" in names else 0
                width = expected[at].shape[-1]
                sums.add(expected[at].reshape(-1, width), got[at].reshape(-1, width))
            away = sums.total()
            kl, agreement = (None, None) if away is None else (away.kl, away.agreement)
            figures[name] = Figures(parity.sqnr_db if parity.finite else math.nan, kl, agreement)
        return figures

    def _on_task(self, sessions: Mapping[str, ort.InferenceSession], task: Task) -> dict[str, Figures]:
        scores = evaluate({"": self._session, **sessions}, task, batch=self.measuring.batch, track=self._with_progress)
        reference = scores.pop("")
        self.scores = reference.metrics
        main = next(iter(reference.metrics))
        figures = {}
        for name, score in scores.items():
            away, drop = score.deviation, self._drop(reference.metrics[main], score.metrics[main])
            assert away is not None  # a candidate's outputs have the shapes of its origin
            figures[name] = Figures(away.sqnr_db, away.kl, away.agreement, score.metrics, drop)
        return figures

    @property
    def drop_unit(self) -> str:
        """What a drop is counted in."""
        return "percent" if self.measuring.name == "perplexity" else "points"

    def _drop(self, reference: float, score: float) -> float:
        if self.drop_unit == "percent":
            return 100.0 * (score / reference - 1.0)
        return reference - score

    def _with_progress(self, batches: Sequence[Batch]) -> Iterator[Batch]:
        for number, batch in enumerate(batches):
            self._progress("evaluating", number, len(batches))
            yield batch

    def _feeds(self, batch: int, sequence: int, *, seed: int, padding: bool = False) -> Feeds:
        length, padded = min(sequence, self._length), padding and batch > 1
        return self._sampler.sample(batch, length, seed=seed, padding=padded)
