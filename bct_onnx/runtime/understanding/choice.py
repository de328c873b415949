"""What inputs can mean is tried in ONNX Runtime, and what works is taken.

A reading works if the model runs on it, gives finite outputs, and the outputs depend on what the model is asked about:
token ids, pictures, sound. A mask that hides everything, or a length of zero, leaves outputs that depend on nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from bct_onnx.errors import TargetError
from bct_onnx.graph import operators
from bct_onnx.graph.names import by_name, entries
from bct_onnx.runtime.inputs import Input
from bct_onnx.runtime.understanding.counting import lengths
from bct_onnx.runtime.understanding.meaning import Meaning, readings
from bct_onnx.runtime.understanding.signals import has_signals, strided
from bct_onnx.runtime.understanding.sizes import FreeSizes
from bct_onnx.runtime.understanding.start import Hints, start
from bct_onnx.runtime.understanding.trial import Array, Feeds, Trial, finite_share, is_float, selectivity
from bct_onnx.runtime.understanding.uses import uses_of
from bct_onnx.runtime.understanding.values import Draw, make, time_axis
from bct_onnx.runtime.understanding.words import reading

SHORT = 7
"""The shortest sequence that is asked for."""

SELECTIVE = 0.05
"""A mask that is read rightly makes outputs depend on what it shows by so much more than on what it hides."""

NEARLY = 0.9
"""A reading is as good as the best if outputs depend on as much, but for this share."""

UNMOVED = 1e-3
"""How good a reading is with which outputs are finite and depend on nothing."""

TRIES = 3
"""Other contents that are tried before outputs are said not to depend on them."""

SILENCED = 4
"""Settings that are tried at zero, one by one and together, to find a model without noise."""

UNLIKE = 1.2
"""A length is of another axis where so many times less gives the same."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """What inputs were taken for.

    Attributes:
        meanings: Of each input, by name.
        free: Free sizes that the model runs on.
        quiet: The meanings with which it gives the same on every run, where there are such.
        reason: Why outputs say nothing; empty where they do.
        is_random: Whether outputs differ from run to run, with all readings.
        least: The shortest sequence.
        most: The longest one.
    """

    meanings: dict[str, Meaning]
    free: FreeSizes
    quiet: dict[str, Meaning]
    reason: str = ""
    is_random: bool = False
    least: int = 1
    most: int = 1 << 30


def understand(model: ir.Model, inputs: Sequence[Input], trial: Trial) -> Choice:
    """Read each input by what the graph does with it, and choose by running where that leaves two readings.

    Raises:
        TargetError: The model runs on no sample.
    """
    uses = uses_of(model)
    texts = {value.name: (reading(value),) for value in model.graph.inputs if value.dtype == ir.DataType.STRING}
    options = {each.name: texts.get(each.name) or readings(each, uses[each.name]) for each in inputs}
    chooser = _Chooser(inputs, options, trial, Hints(strided(options, uses), lengths(model)))
    return chooser.choose(is_random=any(operators.kind(node) == "random" for node in model.graph.all_nodes()))


class _Chooser:
    """Chooses between the readings of one model's inputs."""

    def __init__(
        self, inputs: Sequence[Input], options: Mapping[str, tuple[Meaning, ...]], trial: Trial, hints: Hints
    ) -> None:
        self._inputs, self._options, self._trial = inputs, options, trial
        self._reason = ""
        self._meanings, self._free = start(inputs, options, trial, hints)

    def choose(self, *, is_random: bool) -> Choice:
        """All inputs, one after the other."""
        least, most = self._range()
        self._free = dataclasses.replace(self._free, sequence=max(self._free.sequence, least))
        loud = self._meanings
        is_random = is_random and not self._silence()
        silenced = {name for name, meaning in loud.items() if meaning != self._meanings[name]}
        for name, options in self._options.items():
            if len(options) > 1 and options[0].kind != "mask" and name not in silenced:
                self._choose_by_influence(name, options)
        for name, options in self._options.items():
            if options[0].kind == "mask":
                self._choose_mask(name, options)
        for name, meaning in list(self._meanings.items()):
            if meaning.kind == "length" and not is_random:
                self._meanings[name] = self._measured(name, meaning)
        quiet = self._meanings
        meanings = quiet | entries(loud, silenced)
        reason = self._reason or self._judge(is_random=is_random)
        return Choice(meanings, self._free, quiet, reason, is_random, least, most)

    def _range(self) -> tuple[int, int]:
        """The shortest and longest sequence: convolutions need some frames, other inputs may have a fixed size, and
        what is cut into blocks takes whole ones."""
        length = self._free.sequence
        if not self._runs(length + 1) and not self._runs(max(1, length - 1)):
            return length, length
        if not has_signals(self._meanings.values()):
            return 1, 1 << 30
        return (1 if self._runs(SHORT) else length), 1 << 30

    def _runs(self, sequence: int) -> bool:
        try:
            free = dataclasses.replace(self._free, sequence=sequence)
            self._trial.outputs(make(self._inputs, self._meanings, free))
        except TargetError:
            return False
        return True

    def _silence(self) -> bool:
        """Set as few settings to zero as it takes for the model to give the same on every run; whether that works."""
        settings = [name for name, meaning in self._meanings.items() if meaning.kind == "setting"]
        shapes = {name: array.shape for name, array in self._made(self._meanings).items()}
        counts = {name: int(np.prod(shapes[name], dtype=np.int64)) for name in settings}
        total = sum(counts.values())
        if total > SILENCED:
            return False
        combinations = itertools.product((1.0, 0.0), repeat=total)
        for chosen in sorted(combinations, key=lambda numbers: (-sum(numbers), numbers)):
            numbers, meanings = iter(chosen), dict(self._meanings)
            for name in settings:
                valid = tuple(itertools.islice(numbers, counts[name]))
                meanings[name] = dataclasses.replace(meanings[name], valid=valid if shapes[name] else valid[0])
            if self._repeats(meanings) and self._score(meanings) > UNMOVED:
                self._meanings = meanings
                return True
        return False

    def _repeats(self, meanings: Mapping[str, Meaning]) -> bool:
        feeds = self._made(meanings)
        try:
            outputs = self._trial.outputs(feeds)
            return finite_share(outputs) == 1.0 and self._trial.influence(outputs, feeds) == 0
        except TargetError:
            return False

    def _choose_by_influence(self, name: str, options: Sequence[Meaning]) -> None:
        """The first reading with which outputs depend on nearly as much as with any."""
        scores = {option: self._score({**self._meanings, name: option}) for option in options}
        best = max(scores.values())
        chosen = next(option for option in options if scores[option] >= NEARLY * best)
        if not chosen.is_sure and self._matters(name, [option for option in options if scores[option] > 0]):
            self._reason = f"what input '{name}' means is not understood"
        self._meanings = {**self._meanings, name: chosen}

    def _choose_mask(self, name: str, options: Sequence[Meaning]) -> None:
        """The first way round with which outputs depend nearly most on what is shown and not on what is hidden."""
        shown = {option: self._selectivity(name, option) for option in options}
        least = max(SELECTIVE, NEARLY * max(shown.values()))
        chosen = next((option for option in options if shown[option] >= least), None)
        if chosen is None:
            self._choose_by_influence(name, options)
        else:
            self._meanings = {**self._meanings, name: chosen}

    def _selectivity(self, name: str, option: Meaning) -> float:
        """Of a mask that is read so, with the content on which it shows most."""
        declared = by_name(self._inputs)[name]
        shown = (self._shown(declared, option, content) for content in self._beside(declared))
        return max(shown, default=0.0, key=abs)

    def _shown(self, declared: Input, option: Meaning, content: Input) -> float:
        feeds = self._made({**self._meanings, (name := declared.name): option})
        size = feeds[name].shape[-1]
        if size < 2:
            return 0.0
        other = self._made(self._meanings, seed=1)

        def sample(shown: Array) -> Feeds:
            halves = np.repeat(shown, [size // 2, size - size // 2])
            mask = np.where(halves, option.valid, option.hidden)
            return {**feeds, name: np.broadcast_to(mask, feeds[name].shape).astype(declared.dtype)}

        def change(before: Feeds, half: int) -> Feeds:
            return {**before, content.name: _with_half(before[content.name], other[content.name], content, half)}

        try:
            return selectivity(self._trial, sample, change)
        except TargetError:
            return 0.0

    def _beside(self, mask: Input) -> list[Input]:
        """Inputs with a sequence that a mask is about: those with its last axis, or else all."""
        sequences = list(filter(self._has_sequence, self._inputs))
        length = mask.shape[-1]
        if not isinstance(length, str):
            return sequences
        return [declared for declared in sequences if length in declared.shape] or sequences

    def _has_sequence(self, declared: Input) -> bool:
        meaning = self._meanings[declared.name]
        return meaning.is_content and len(declared.shape) > (2 if meaning.kind == "embeds" else 1)

    def _measured(self, name: str, meaning: Meaning) -> Meaning:
        """A length of the axis that it is compared with, which the model may have made shorter.

        That is the least one that gives the same as the whole.
        """
        feeds = self._made(self._meanings)
        whole = int(feeds[name].max(initial=1))

        def is_alike(length: int) -> bool:
            try:
                return self._trial.influence(outputs, {**feeds, name: np.full_like(feeds[name], length)}) == 0
            except TargetError:
                return False

        outputs = self._trial.outputs(feeds)
        if whole < 4 or is_alike(1):
            return meaning
        low, high = 1, whole
        while low + 1 < high:
            middle = (low + high) // 2
            low, high = (low, middle) if is_alike(middle) else (middle, high)
        if whole / high > UNLIKE:
            return dataclasses.replace(meaning, divisor=whole / high)
        return meaning

    def _made(self, meanings: Mapping[str, Meaning], *, seed: int = 0) -> Feeds:
        return make(self._inputs, meanings, self._free, Draw(seed))

    def _score(self, meanings: Mapping[str, Meaning]) -> float:
        """How much of the outputs is finite and depends on the contents; -1 where the model does not run."""
        try:
            feeds = self._made(meanings)
            outputs = self._trial.outputs(feeds)
            total = max(1, sum(map(np.size, outputs)))
            moved = sum(self._trial.influence(outputs, changed) for changed in self._changed(feeds, meanings))
        except TargetError:
            return -1.0
        return finite_share(outputs) * (moved / total + UNMOVED)

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
        feeds, *others = (self._made({**self._meanings, name: option}) for option in options)
        return self._trial.differs(self._trial.outputs(feeds), others)

    def _judge(self, *, is_random: bool) -> str:
        """Why outputs say nothing; empty where they do."""
        feeds = self._made(self._meanings)
        outputs = self._trial.outputs(feeds)
        if not all(map(_has_finite, outputs)):
            return "no output is finite on any inputs that could be made"
        if is_random or not any(meaning.is_content for meaning in self._meanings.values()):
            return ""
        for seed in range(1, TRIES + 1):
            if self._trial.differs(outputs, self._changed(feeds, self._meanings, seed)):
                return ""
        return "outputs do not depend on any inputs that could be made"


def _has_finite(output: Array) -> bool:
    """Whether an element is finite; nothing is asked of integers, and of outputs without elements."""
    return not is_float(output) or not output.size or bool(np.isfinite(output).any())


def _with_half(before: Array, other: Array, content: Input, half: int) -> Array:
    """An array with the first or second half of its sequence taken from another."""
    axis = before.ndim - 1 if before.ndim in (2, 4) else time_axis(content)
    places = np.arange(before.shape[axis])
    is_second = places >= before.shape[axis] // 2
    along = [1] * before.ndim
    along[axis] = -1
    return np.where((is_second == (half == 1)).reshape(along), other, before)
