"""How far candidates are from the model as it came: outputs, score and time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnxruntime as ort

from bct_onnx.errors import TargetError
from bct_onnx.figures import finite, finite_values
from bct_onnx.graph.names import map_values
from bct_onnx.progress import Progress
from bct_onnx.quant import Error
from bct_onnx.reference import Reference
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.latency import Speedup, measure
from bct_onnx.tasks.deviation import Deviation, DeviationSums
from bct_onnx.tasks.evaluate import Task, drop, drop_unit, evaluate
from bct_onnx.tasks.outputs import main_output
from bct_onnx.tasks.tokens import Batch

NOWHERE = Deviation(Error(), None, None)

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
            "metrics": finite_values(self.metrics),
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


class Comparison:
    """Candidates beside the model as it came.

    Args:
        file: The model.
        model: The same, loaded.
        measuring: What to measure with.
        progress: Told about batches of the task.

    Attributes:
        source: What outputs are compared on, in words.
        scores: The model's own on the task; empty until a candidate was measured, and without a task.

    Raises:
        InputModelError: ONNX Runtime cannot load it.
        TargetError: It has to be run on random inputs, and ONNX Runtime cannot.
    """

    def __init__(self, file: Path, model: ir.Model, measuring: Measuring, progress: Progress) -> None:
        self.measuring, self._progress = measuring, progress
        self._reference = Reference(
            file, model, True, threads=measuring.threads, repeats=REPEATS, timed=measuring.shape
        )
        if self._reference.skipped and (measuring.task is None or measuring.rounds):
            raise TargetError("the model does not run", where=str(file), why=self._reference.skipped)
        self.source = self._reference.source if measuring.task is None else measuring.data
        self.scores: Mapping[str, float] = {}

    def compare_on(self, samples: Sequence[Feeds], source: str) -> None:
        """Compare outputs on these inputs, where there is no task."""
        self._reference.compare_on(samples)
        self.source = source

    @property
    def timed_shape(self) -> tuple[int, int] | None:
        """Batch and sequence that are timed: as wished, or as long as the model can; None where nothing is timed."""
        if self.measuring.rounds:
            return self._reference.timed_shape
        return None

    def measure(self, files: Mapping[str, Path]) -> dict[str, Figures]:
        """Figures of candidates, which are loaded and run side by side.

        Raises:
            TargetError: ONNX Runtime cannot load or run a candidate.
        """
        sessions = map_values(self._reference.opened, files)
        task, rounds = self.measuring.task, self.measuring.rounds
        figures = self._on_samples(sessions) if task is None else self._on_task(sessions, task)
        if not rounds:
            return figures
        feeds = self._reference.unpadded(*self._reference.timed_shape)
        reference, *times = measure({"": self._reference.session, **sessions}, feeds, rounds=rounds).values()
        for name, time in zip(sessions, times, strict=True):
            figures[name] = dataclasses.replace(figures[name], faster=time.speedup_over(reference))
        return figures

    def _on_samples(self, sessions: Mapping[str, ort.InferenceSession]) -> dict[str, Figures]:
        reference, figures = self._reference, dict[str, Figures]()
        output = main_output(reference.names)
        at = reference.names.index(output)
        for name, candidate in sessions.items():
            reference.adapt(candidate)
            outputs = reference.outputs(candidate)
            parity, sums = reference.against(outputs), DeviationSums(logits=output == "logits")
            for expected, result in zip(reference.real(reference.expected), reference.real(outputs), strict=True):
                width = expected[at].shape[-1]
                sums.add(expected[at].reshape(-1, width), result[at].reshape(-1, width))
            sqnr_db = parity.sqnr_db if parity.finite else math.nan
            away = sums.total() or NOWHERE
            figures[name] = Figures(sqnr_db, away.kl, away.agreement)
        return figures

    def _on_task(self, sessions: Mapping[str, ort.InferenceSession], task: Task) -> dict[str, Figures]:
        scores = evaluate(
            {"": self._reference.session, **sessions}, task, batch=self.measuring.batch, track=self._with_progress
        )
        reference = scores.pop("")
        self.scores = reference.metrics
        main = next(iter(reference.metrics))
        figures = {}
        for name, score in scores.items():
            away, worse = score.deviation, drop(self.measuring.name, reference.metrics[main], score.metrics[main])
            assert away is not None  # a candidate's outputs have the shapes of its origin
            figures[name] = Figures(away.sqnr_db, away.kl, away.agreement, score.metrics, worse)
        return figures

    @property
    def drop_unit(self) -> str:
        """What a drop is counted in."""
        return drop_unit(self.measuring.name)

    def _with_progress(self, batches: Sequence[Batch]) -> Iterator[Batch]:
        for number, batch in enumerate(batches):
            self._progress("evaluating", number, len(batches))
            yield batch
