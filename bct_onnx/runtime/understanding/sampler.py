"""Samples that make sense to a model, of any size and number."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from bct_onnx.errors import TargetError
from bct_onnx.graph.names import names_of
from bct_onnx.runtime.inputs import Input, inputs_of
from bct_onnx.runtime.understanding import caches
from bct_onnx.runtime.understanding.choice import Choice, understand
from bct_onnx.runtime.understanding.meaning import Meaning, by_name, kind_by_name
from bct_onnx.runtime.understanding.signals import Family, has_signals
from bct_onnx.runtime.understanding.trial import Feeds, Trial
from bct_onnx.runtime.understanding.values import Draw, make


class Sampler:
    """Makes samples for one model.

    Args:
        model: The model, whose graph tells what inputs are.
        runner: The same in ONNX Runtime; it may hand out more than the model does.

    Attributes:
        inputs: What it declares.
        reason: Why samples say nothing about the model; empty where they do.
        is_random: Whether the model gives other outputs on every run, whatever it is given.
        notes: In words what inputs were taken for, of those where it is not evident: "length: lengths".

    Raises:
        TargetError: The model runs on no sample.
    """

    def __init__(self, model: ir.Model, runner: ort.InferenceSession) -> None:
        self._caches = caches.known(model)
        self.inputs = caches.sized(inputs_of(runner), self._caches)
        self._trial = Trial(runner, names_of(model.graph.outputs))
        self._choice: Choice = understand(model, self.inputs, self._trial)
        self.reason, self.is_random = self._choice.reason, self._choice.is_random
        self.notes = tuple(_noted(self.inputs, self._choice))

    def forget_runner(self) -> None:
        """Let go of the running model; samples are made without it, but no limits found any more."""
        del self._trial

    @property
    def meaningful(self) -> bool:
        """Whether outputs are finite and depend on what the model is asked about."""
        return not self.reason

    @property
    def has_signals(self) -> bool:
        """Whether it is asked about pictures, sound or features."""
        return has_signals(self.meanings.values())

    @property
    def meanings(self) -> dict[str, Meaning]:
        """What each input was taken for, by name."""
        return self._choice.meanings

    def sample(
        self,
        batch: int = 1,
        sequence: int = 16,
        *,
        seed: int = 0,
        padding: bool = False,
        past: int = 0,
        family: Family = "calibrate",
    ) -> Feeds:
        """One sample; sizes that are not free stay as they are.

        Args:
            batch: Rows.
            sequence: Tokens in a row; a signal has several frames for each. As many as the model needs at least.
            seed: Of all values.
            padding: Give every row but the first a random length from half to all of the sequence.
            past: Length of the caches.
            family: Signals to calibrate on; or others to check with, and no noise of the model's own.
        """
        choice = self._choice
        length = min(max(sequence, choice.least), choice.most)
        free = dataclasses.replace(choice.free, batch=batch, sequence=length, past=past)
        meanings = choice.quiet if family == "check" else choice.meanings
        return make(self.inputs, meanings, free, Draw(seed, padding, family))

    def samples(self, batch: int, sequence: int, seeds: Iterable[int]) -> list[Feeds]:
        """A sample of one size for each of some seeds."""
        return [self.sample(batch, sequence, seed=seed) for seed in seeds]

    def of(self, inputs: Sequence[Input]) -> Sampler:
        """The same for another model's declaration of these inputs, whose sizes may be fixed."""
        other = copy.copy(self)
        other.inputs = caches.sized(inputs, self._caches)
        usual = {declared.name: by_name(declared) for declared in inputs}
        meanings, quiet = usual | self._choice.meanings, usual | self._choice.quiet
        other._choice = dataclasses.replace(self._choice, meanings=meanings, quiet=quiet)
        return other

    def longest(self, at_most: int) -> int:
        """The longest sequence, up to ``at_most``, that the model runs on: its tables of positions end somewhere.

        Where positions are counted without padding, a random token that is padding hides that the end was reached: a
        row of one token all over tells, if the model runs on any such row.

        Raises:
            TargetError: It runs on no sequence, whatever the length.
        """
        fits = self._longest(min(at_most, self._choice.most), self.sample)
        if not fits:
            self._trial.outputs(self.sample(1, 1))
        return self._longest(fits, self._of_one_token) or fits

    def _longest(self, at_most: int, sample: Callable[[int, int], Feeds]) -> int:
        """The longest of the samples that run, by halving; 0 if none does."""
        fits, fails = 0, at_most + 1
        length = at_most
        while fits + 1 < fails:
            try:
                self._trial.outputs(sample(1, length))
            except TargetError:
                fails = length
            else:
                fits = length
            length = (fits + fails) // 2
        return fits

    def _of_one_token(self, batch: int, sequence: int) -> Feeds:
        """A sample whose ids are all the last row of their table, which is hardly ever padding."""
        feeds = dict(self.sample(batch, sequence))
        for name, meaning in self.meanings.items():
            if meaning.kind == "ids":
                feeds[name] = np.full_like(feeds[name], meaning.below - 1)
        return feeds

    def rows(self, at_most: int, sequence: int) -> int:
        """Rows of a sample that the model runs on: as many as wanted, or one, where an export takes no more."""
        try:
            self._trial.outputs(self.sample(at_most, sequence))
        except TargetError:
            return 1
        return at_most


def _noted(inputs: Sequence[Input], choice: Choice) -> Iterator[str]:
    for declared in inputs:
        meaning = choice.meanings[declared.name]
        usual = by_name(declared, meaning.below)
        alike = (usual.kind, usual.valid, usual.hidden) == (meaning.kind, meaning.valid, meaning.hidden)
        if not alike or kind_by_name(declared.name) in ("image", "audio", "features", "other"):
            yield f"{declared.name}: {meaning.said()}"
