"""Samples that make sense to a model: what its inputs can mean is tried in ONNX Runtime, and what works is taken.

A reading works if the model runs on it, gives finite outputs, and the outputs depend on what the model is asked about:
token ids, pictures, sound. A mask that hides everything, or a length of zero, leaves outputs that depend on nothing.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from bct_onnx.errors import TargetError
from bct_onnx.runtime.inputs import Input, inputs_of
from bct_onnx.runtime.understanding.meaning import Meaning, by_name, kind_by_name, readings
from bct_onnx.runtime.understanding.signals import Family
from bct_onnx.runtime.understanding.sizes import FRAMES, Wanted
from bct_onnx.runtime.understanding.trial import Array, Feeds, Trial, finite_share, selectivity
from bct_onnx.runtime.understanding.uses import uses_of
from bct_onnx.runtime.understanding.values import Draw, make, time_axis

SIDES = (64, 96, 128, 32, 48, 224, 256, 384, 512, 336, 448, 518)
"""Heights and widths of images that are tried, where both are free. Not the smallest first: of 32 pixels little is left
behind strides of 32."""

SEQUENCES = (16, 32, 8, 64, 128, 256, 512, 4, 2, 1)
"""Lengths of sequences that are tried."""

SHORT = 7
"""The shortest sequence that is asked for."""

SOUNDS = (16_000, 4_000, 48_000, 160_000)
"""Lengths of sound that are tried, in samples."""

COMBINATIONS = 24
"""Readings of all inputs together that are tried until one runs."""

SELECTIVE = 0.05
"""A mask that is read rightly makes outputs depend on what it shows by so much more than on what it hides."""

NEARLY = 0.9
"""A reading is as good as the best if outputs depend on as much, but for this share."""

TRIES = 3
"""Other contents that are tried before outputs are said not to depend on them."""

RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
)


class Sampler:
    """Makes samples for one model.

    Args:
        model: The model, whose graph tells what inputs are.
        runner: The same in ONNX Runtime; it may hand out more than the model does.

    Attributes:
        inputs: What it declares.
        meanings: What each input was taken for, by name.
        notes: That in words, of the inputs of which it is not evident: "length: lengths".
        reason: Why samples say nothing about the model; empty where they do.
        is_random: Whether the model gives other outputs on every run.

    Raises:
        TargetError: The model runs on no sample.
    """

    def __init__(self, model: ir.Model, runner: ort.InferenceSession) -> None:
        self.inputs = inputs_of(runner)
        self._runner = runner
        self._trial = Trial(runner, [value.name or "" for value in model.graph.outputs])
        uses = uses_of(model)
        self._readings = {one.name: readings(one, uses[one.name]) for one in self.inputs}
        self.is_random = any(node.op_type in RANDOM for node in model.graph.all_nodes())
        self.reason, self._least = "", 1
        self.meanings, self._wanted = self._first()
        self._choose()
        self.notes = tuple(self._noted())

    @property
    def meaningful(self) -> bool:
        """Whether outputs are finite and depend on what the model is asked about."""
        return not self.reason

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
            sequence: Tokens in a row; a signal has `FRAMES` frames for each. As many as the model needs at least.
            seed: Of all values.
            padding: Give every row but the first a random length from half to all of the sequence.
            past: Length of the caches.
            family: Signals to calibrate on, or others to check with.
        """
        wanted = dataclasses.replace(self._wanted, batch=batch, sequence=max(sequence, self._least), past=past)
        return make(self.inputs, self.meanings, wanted, Draw(seed, padding, family))

    def of(self, inputs: Sequence[Input]) -> Sampler:
        """The same for another model's declaration of these inputs, whose sizes may be fixed."""
        other = copy.copy(self)
        other.inputs = tuple(inputs)
        other.meanings = {one.name: self.meanings.get(one.name, by_name(one)) for one in inputs}
        return other

    def longest(self, at_most: int) -> int:
        """The longest sequence, up to ``at_most``, that the model runs on: its tables of positions end somewhere.

        Raises:
            TargetError: It runs on no sequence, whatever the length.
        """
        fits, fails = 0, at_most + 1
        length = at_most
        while fits + 1 < fails:
            try:
                self._trial.outputs(self.sample(1, length))
            except TargetError:
                if length == 1:
                    raise
                fails = length
            else:
                fits = length
            length = (fits + fails) // 2
        return fits

    def _first(self) -> tuple[dict[str, Meaning], Wanted]:
        """The first sizes and readings that the model runs on."""
        error: TargetError | None = None
        for wanted in self._sizes():
            for meanings in self._combinations():
                try:
                    self._trial.outputs(make(self.inputs, meanings, wanted))
                except TargetError as failed:
                    error = error or failed
                else:
                    return meanings, wanted
        assert error is not None
        raise error

    def _sizes(self) -> Iterator[Wanted]:
        kinds = {each.kind for options in self._readings.values() for each in options}
        sides = SIDES if "image" in kinds else SIDES[:1]
        sounds = SOUNDS if "audio" in kinds else SOUNDS[:1]
        frames = (FRAMES, 1, 0) if "features" in kinds else (FRAMES,)
        for side, sound, each, sequence in itertools.product(sides, sounds, frames, SEQUENCES):
            yield Wanted(sequence=sequence, image=(side, side), frames=each, samples=sound)

    def _combinations(self) -> Iterator[dict[str, Meaning]]:
        """Readings of all inputs, the likeliest first; which way round a mask is changes nothing about running."""
        options = [each[:1] if each[0].kind == "mask" else each for each in self._readings.values()]
        for chosen in itertools.islice(itertools.product(*options), COMBINATIONS):
            yield dict(zip(self._readings, chosen, strict=True))

    def _choose(self) -> None:
        """Decide between readings, then judge the samples."""
        if any(each.kind in ("features", "audio") for each in self.meanings.values()):
            self._least = self._needed()
        for name, options in self._readings.items():
            if len(options) > 1 and options[0].kind != "mask":
                self._choose_by_influence(name, options)
        for name, options in self._readings.items():
            if options[0].kind == "mask":
                self._choose_mask(name, options)
        self.reason = self.reason or self._judge()

    def _needed(self) -> int:
        """The shortest sequence, which convolutions need some frames for."""
        least = self._wanted.sequence
        try:
            self._trial.outputs(self.sample(1, SHORT))
        except TargetError:
            return least
        return 1

    def _choose_by_influence(self, name: str, options: Sequence[Meaning]) -> None:
        """The first reading with which outputs depend on nearly as much as with any."""
        scores = {option: self._score({**self.meanings, name: option}) for option in options}
        best = max(scores.values())
        chosen = next(option for option in options if scores[option] >= NEARLY * best)
        if not chosen.is_sure and self._matters(name, [option for option in options if scores[option] > 0]):
            self.reason = f"what input '{name}' means is not understood"
        self.meanings = {**self.meanings, name: chosen}

    def _choose_mask(self, name: str, options: Sequence[Meaning]) -> None:
        """The way round with which outputs depend on what is shown and not on what is hidden."""
        chosen = next((option for option in options if self._selectivity(name, option) >= SELECTIVE), None)
        if chosen is None:
            self._choose_by_influence(name, options)
        else:
            self.meanings = {**self.meanings, name: chosen}

    def _selectivity(self, name: str, option: Meaning) -> float:
        declared = next(one for one in self.inputs if one.name == name)
        contents = self._beside(declared)
        feeds = self._made({**self.meanings, name: option})
        size = feeds[name].shape[-1]
        if not contents or size < 2:
            return 0.0
        other = self._made(self.meanings, seed=1)

        def sample(shown: Array) -> Feeds:
            halves = np.repeat(shown, [size // 2, size - size // 2])
            mask = np.where(halves, option.valid, option.hidden)
            return {**feeds, name: np.broadcast_to(mask, feeds[name].shape).astype(declared.dtype)}

        def change(before: Feeds, half: int) -> Feeds:
            return {
                **before,
                **{each.name: _with_half(before[each.name], other[each.name], each, half) for each in contents},
            }

        try:
            return selectivity(self._trial, sample, change)
        except TargetError:
            return 0.0

    def _beside(self, mask: Input) -> list[Input]:
        """Inputs with a sequence that a mask is about: those with its last axis, or else all."""
        kinds = {one.name: self.meanings[one.name].kind for one in self.inputs}
        found = [one for one in self.inputs if kinds[one.name] in ("ids", "audio", "features", "embeds")]
        found = [
            one for one in found if len(one.shape) >= 2 and not (kinds[one.name] == "embeds" and len(one.shape) == 2)
        ]
        return [one for one in found if isinstance(mask.shape[-1], str) and mask.shape[-1] in one.shape] or found

    def _made(self, meanings: Mapping[str, Meaning], *, seed: int = 0) -> Feeds:
        wanted = dataclasses.replace(self._wanted, sequence=max(self._wanted.sequence, self._least))
        return make(self.inputs, meanings, wanted, Draw(seed))

    def _score(self, meanings: Mapping[str, Meaning]) -> float:
        """How much of the outputs is finite and depends on the contents; -1 where the model does not run."""
        try:
            feeds = self._made(meanings)
            outputs = self._trial.outputs(feeds)
            total = max(1, sum(each.size for each in outputs))
            moved = sum(self._trial.influence(outputs, changed) for changed in self._changed(feeds, meanings))
        except TargetError:
            return -1.0
        return finite_share(outputs) * (moved / total + 1e-3)

    def _changed(self, feeds: Feeds, meanings: Mapping[str, Meaning], seed: int = 1) -> Iterator[Feeds]:
        """The feeds with another content, of one input after the other."""
        other = self._made(meanings, seed=seed)
        for name, meaning in meanings.items():
            if meaning.is_content:
                yield {**feeds, name: other[name]}

    def _matters(self, name: str, options: Sequence[Meaning]) -> bool:
        """Whether outputs differ between readings of an input."""
        if not options:
            return True
        outputs = self._trial.outputs(self._made({**self.meanings, name: options[0]}))
        others = (self._made({**self.meanings, name: option}) for option in options[1:])
        return any(self._trial.influence(outputs, other) > 0 for other in others)

    def _judge(self) -> str:
        """Why outputs say nothing; empty where they do."""
        feeds = self._made(self.meanings)
        outputs = self._trial.outputs(feeds)
        if any(each.dtype.kind == "f" and each.size and not np.isfinite(each).any() for each in outputs):
            return "no output is finite on any inputs that could be made"
        if self.is_random or not any(each.is_content for each in self.meanings.values()):
            return ""
        for seed in range(1, TRIES + 1):
            changed = self._changed(feeds, self.meanings, seed)
            if any(self._trial.influence(outputs, each) > 0 for each in changed):
                return ""
        return "outputs do not depend on any inputs that could be made"

    def _noted(self) -> Iterator[str]:
        for one in self.inputs:
            meaning = self.meanings[one.name]
            usual = by_name(one, meaning.below)
            alike = (usual.kind, usual.valid, usual.hidden) == (meaning.kind, meaning.valid, meaning.hidden)
            if not alike or kind_by_name(one.name) in ("image", "audio", "features", "other"):
                yield f"{one.name}: {meaning.said()}"


def _with_half(before: Array, other: Array, one: Input, half: int) -> Array:
    """An array with the first or second half of its sequence taken from another."""
    axis = before.ndim - 1 if before.ndim == 2 else time_axis(one)
    middle = before.shape[axis] // 2
    chosen = np.arange(before.shape[axis]) < middle if half == 0 else np.arange(before.shape[axis]) >= middle
    return np.where(chosen.reshape([-1 if at == axis else 1 for at in range(before.ndim)]), other, before)
