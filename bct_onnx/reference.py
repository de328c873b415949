"""The model as it came, in ONNX Runtime: its samples and its outputs, which whatever is made of it is compared with."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnxruntime as ort

from bct_onnx import exactness, telling
from bct_onnx.errors import GateError, InputModelError, TargetError, UsageError
from bct_onnx.exactness import Side
from bct_onnx.graph import functions, load, opset, randomness, widen
from bct_onnx.graph.inventory import inventory
from bct_onnx.graph.names import names_of
from bct_onnx.graph.padding.record import Removed
from bct_onnx.progress import told
from bct_onnx.report import Timing
from bct_onnx.runtime.check_shapes import OF_SIGNALS, SEED, SHAPES, SINGLE, SINGLE_SIGNAL, SOURCE
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.inputs import fits, fixed_length, inputs_of
from bct_onnx.runtime.latency import measure
from bct_onnx.runtime.parity import Parity, compare_outputs
from bct_onnx.runtime.session import Optimize, run, run_all, session
from bct_onnx.runtime.understanding import RunsOnNothingError, Sampler
from bct_onnx.tasks.calibration import CalibrationData
from bct_onnx.tasks.held_back import HeldBack, held_back

LIMIT = 1 << 30
"""Models with more bytes of weights than this are not run, unless asked for: that would take several times their
size."""

TIMED, _ROUNDS, _DRAWN = (1, 128), 5, 6
TIMING = 5.0
"""Seconds after which no further round is timed."""

FAULT = (
    "this is a fault of bct-onnx, not of the model: please report it; meanwhile leave that pass out with --passes, or "
    "where it is the target's own take another --target"
)

LEVELS: tuple[Optimize, ...] = ("all", "disabled")
"""How far the source is optimized: not at all where it does not run otherwise."""


class Reference:
    """The model as it came, which what is made of it is compared with.

    It is run without ONNX Runtime's optimizations where it does not run with them. Operators that draw random numbers
    give their mean instead, here and in what is compared.

    Args:
        source: The input file, or None for a model in memory.
        model: The input model, before any pass.
        required: True runs it whatever its size, False never, None if its weights are below `LIMIT`.
        settings: Those of the sessions in which results are judged, as the target has them.
        given: What calibrates; texts of it that do not are what is compared, where there are any.
        threads: Threads within an operator, of all sessions; 0 leaves it to ONNX Runtime.
        repeats: Samples of each shape: a classifier has few outputs.
        timed: Batch and sequence that are timed.

    Attributes:
        skipped: Why nothing is compared; empty where it is.
        sampler: Makes the samples, and knows whether outputs depend on them (``meaningful``); where it is not skipped.
        fresh: Gives the input model anew.
        runnable, names: The input model as it is run, and what it calls its outputs; where it is not skipped.
        feeds, expected: The samples, and the input model's outputs on them.
        bound: dB that outputs keep where a model made of it promises to be the same.

    Raises:
        InputModelError: ONNX Runtime cannot load the input model in any way.
    """

    def __init__(
        self,
        source: Path | None,
        model: ir.Model,
        required: bool | None,
        settings: Mapping[str, str] | None = None,
        given: CalibrationData | None = None,
        *,
        threads: int = 1,
        repeats: int = 1,
        timed: tuple[int, int] = TIMED,
    ) -> None:
        self.settings, self._given = settings or {}, given or CalibrationData()
        self._threads, self._repeats, self._timed = threads, repeats, timed
        self._texts: HeldBack | None = None
        nbytes = inventory(model).stored
        self.skipped = "switched off" if required is False else ""
        if required is None and nbytes > LIMIT:
            self.skipped = f"the model has {nbytes / 1e9:.1f} GB of weights; --check runs it all the same"
        self._open: ort.InferenceSession | None = None
        self.expected: list[list[Any]] = []
        self._padding: Removed | None = None  # of the model that is compared with the source
        self.loads, self.load_seconds = False, 0.0
        if self.skipped:
            return
        self.fresh: Callable[[], ir.Model] = (
            model.clone().clone if source is None else functools.partial(load.load, source)
        )
        self.random, self._silent = randomness.is_random(model), dict[str, str]()
        self.bound = exactness.bound(model)
        plain = source is not None and not self.random and not widen.is_narrow(model)
        model = model if plain else self._runnable(model)
        self._start(source if plain and source is not None else model, model)

    def _start(self, runnable: Path | ir.Model, model: ir.Model) -> None:
        """Load the input model and run it on samples: with ONNX Runtime's optimizations, or else without."""
        self.runnable, failed = runnable, list[TargetError]()
        for self._optimize in LEVELS:
            try:
                start = time.perf_counter()
                self._open = session(runnable, threads=self._threads, optimize=self._optimize)
                self.loads, self.load_seconds = True, time.perf_counter() - start
                if isinstance(earlier := next(iter(failed), None), RunsOnNothingError):
                    run(self._open, earlier.sample)  # optimizations are not to blame where it fails as well
                self._take_samples(model)
            except TargetError as error:
                failed.append(error)
            else:
                self._open = None  # until it is run again: it takes as much memory as all of its weights
                self.sampler.forget_runner()
                return
        if not self.loads:
            fix = "check it with `check-model FILE` (from onnx); --no-check rewrites it all the same"
            if (version := model.opset_imports.get("", opset.OLDEST)) < opset.OLDEST:
                fix = f"export it again: opset {version} is too old, {opset.OLDEST} is the first that is known"
            raise InputModelError("ONNX Runtime cannot load the input model", why=failed[0].why, fix=fix)
        self.skipped = f"the input model does not run on made-up inputs: {failed[0].why}"

    @property
    def session(self) -> ort.InferenceSession:
        """The input model in ONNX Runtime, loaded again where it was closed."""
        if self._open is None:
            self._open = session(self.runnable, threads=self._threads, optimize=self._optimize)
        return self._open

    def _take_samples(self, model: ir.Model) -> None:
        self.sampler = Sampler(model, self.session)
        self._inputs, self._fixed = inputs_of(self.session), False
        self.names = names_of(self.session.get_outputs())
        self._longest = self.sampler.longest(max(TIMED[1], self._timed[1]))
        self._texts = held_back(self._given, model)
        several, single = (OF_SIGNALS, SINGLE_SIGNAL) if self.sampler.has_signals else (SHAPES, SINGLE)
        try:
            self._sample(several)
        except TargetError:  # some exports take one text at a time only
            self._sample(single)
        if self._inputs:
            self._silent = telling.constant(self.expected[1], self._others(1, 1)[0], self.names)

    def _sample(self, shapes: Sequence[tuple[int, int]]) -> None:
        """Take samples of these shapes, and the input model's outputs."""
        self._shapes = shapes
        self.compare_on([self._feeds(*shape, seed) for seed, shape in enumerate(self._repeats * tuple(shapes))])

    def compare_on(self, samples: Sequence[Feeds]) -> None:
        """Take these inputs as the samples, and the input model's outputs on them."""
        self.feeds = samples
        self.expected = self.outputs(self.session)

    def outputs(self, candidate: ort.InferenceSession) -> list[list[Any]]:
        """What a model gives on the samples."""
        return run_all(candidate, told(self.feeds, len(self.feeds)))

    def _others(self, shape: int, number: int) -> list[list[Any]]:
        """The input model's outputs on other inputs of the shapes of a sample."""
        seeds = range(len(self.feeds), len(self.feeds) + number)
        return [run(self.session, self._feeds(*self._shapes[shape], seed)) for seed in seeds]

    def parity(self, candidate: ort.InferenceSession) -> Parity:
        """Outputs of ``candidate`` against the input model's; a GateError where they have other shapes."""
        self.adapt(candidate)
        return self.against(self.outputs(candidate))

    def against(self, outputs: Sequence[Any], before: Sequence[Any] = ()) -> Parity:
        """A model's outputs on the samples against those of the input model, or of a model ``before``.

        Raises:
            GateError: They have other shapes.
        """
        reference = before or self.expected
        try:
            parity = self._compared(reference, outputs)
            if not (telling.is_doubtful(parity) and self._noisy):
                return parity
            self._silent |= self._noisy
            return self._compared(reference, outputs)
        except UsageError as error:
            if elastic := telling.elastic(self.expected[0], self._others(0, _DRAWN), self.names):
                self._silent |= elastic
                return self._compared(reference, outputs)
            raise GateError("the rewrite changed the outputs", why=f"{error.what}; {error.why}", fix=FAULT) from error

    @functools.cached_property
    def _noisy(self) -> dict[str, str]:
        """Why nothing can be compared with outputs of the input model that are noise in itself."""
        side = dataclasses.replace(self.itself, model=self.itself.model().clone)  # loaded once
        return telling.noisy(exactness.noisy(side, self.feeds, self.names, self.real))

    def _compared(self, before: Sequence[Any], after: Sequence[Any]) -> Parity:
        padding = self._padding
        if padding is None and self._texts is not None and not self._fixed:
            padding = self._texts.unread(self.names)
        before = telling.without(self._read(before, padding), self.names, self._silent)
        after = telling.without(self._read(after, padding), self.names, self._silent)
        return compare_outputs(before, after, names=self.names, source=self.source, silent=self._silent)

    def real(self, samples: Sequence[Any]) -> Sequence[Any]:
        """Outputs on the samples, without padding where what was compared last has none."""
        return self._read(samples, self._padding)

    def _read(self, samples: Sequence[Any], padding: Removed | None) -> Sequence[Any]:
        if padding is None:
            return samples
        return [padding.real(sample, feeds, self.names) for sample, feeds in zip(samples, self.feeds, strict=False)]

    def opened(self, model: Path | ir.Model, optimize: Optimize = "all") -> ort.InferenceSession:
        """A session of what was made of the input model, for comparing outputs; a TargetError where it cannot load."""
        if self.random:
            model = self._runnable(load.load(model) if isinstance(model, Path) else model)
        return session(model, threads=self._threads, settings=self.settings, optimize=optimize)

    def side(self, model: ir.Model, candidate: ort.InferenceSession | None = None) -> Side:
        """A model as it is now with its outputs; ``candidate`` is a session of it, if there is one."""
        return Side(model.clone, self.outputs(candidate or self.opened(model)), self.settings)

    @property
    def itself(self) -> Side:
        """The input model and its outputs."""
        return Side(lambda: self._runnable(self.fresh()), self.expected)

    def adapt(self, candidate: ort.InferenceSession) -> bool:
        """Take other samples if ``candidate`` has fixed sizes that these have not; whether it has come to that now.

        Of one whose padding was removed real tokens are compared alone. The model before it has no outputs for these.
        """
        self._padding = Removed.in_session(candidate)
        inputs = inputs_of(candidate)
        if all(fits(feeds, inputs) for feeds in self.feeds):
            return False
        self._inputs, self._fixed = inputs, True
        self.sampler = self.sampler.of(inputs)
        self._sample(self._shapes)
        return True

    @property
    def source(self) -> str:
        """What the samples are, in words."""
        single = " of one text, as the input model runs no more" if self._shapes in (SINGLE, SINGLE_SIGNAL) else ""
        noise = "; noise is its mean in both models" if self.random else ""
        plain = "; the input without ONNX Runtime's optimizations, with which it does not run"
        data = self._texts.source if self._texts is not None and not self._fixed else SOURCE
        return f"{data}{single}{noise}{plain if self._optimize == 'disabled' else ''}"

    def timings(self, after: ort.InferenceSession, before: ort.InferenceSession | None = None) -> tuple[Timing, ...]:
        """Both models on one shape, one thread, interleaved; ``before`` is the input model in another runtime."""
        (batch, sequence), feeds = self.timed_shape, self.unpadded(*self.timed_shape)
        if self._fixed:
            shape = next(iter(feeds.values())).shape
            batch, sequence = shape[0], shape[-1]
        models = {"before": before or self.session, "after": after}
        times = measure(models, feeds, rounds=_ROUNDS, warmup=1, seconds=TIMING)
        return (Timing(batch, sequence, times["before"].median_ms, times["after"].median_ms),)

    @property
    def timed_shape(self) -> tuple[int, int]:
        """Batch and sequence that are timed: as wished, or as long as the model can."""
        return self._timed[0], min(self._timed[1], self._longest)

    def unpadded(self, batch: int, sequence: int) -> Feeds:
        """A sample at random of which no row is padded, to time models with: padding may cost nothing."""
        return self._drawn(batch, sequence, 0, padding=False)

    def _feeds(self, batch: int, sequence: int, seed: int) -> Feeds:
        if self._texts is not None and not self._fixed:
            return self._texts.feeds(batch, min(sequence, self._longest), seed)
        return self._drawn(batch, sequence, seed, padding=batch > 1)

    def _drawn(self, batch: int, sequence: int, seed: int, *, padding: bool) -> Feeds:
        """A sample at random, as long as the model can; of several rows with padding the first has none."""
        length = min(sequence, self._longest)
        if self._fixed:
            length, padding = fixed_length(self._inputs) or length, False
        return self.sampler.sample(batch, length, seed=SEED + seed, padding=padding, family="check")

    def _runnable(self, model: ir.Model) -> ir.Model:
        """``model`` as it is compared: noise is its mean, and bfloat16 is float32, as normalize makes it."""
        if self.random:
            model = randomness.steadied(model)
        if widen.is_narrow(model):
            model = functions.inlined(model)
            widen.widen(model)
        return model
