"""Values of inputs whose meanings and shapes are known."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bct_onnx.graph.known import sized
from bct_onnx.graph.names import by_name, names_of
from bct_onnx.runtime.inputs import Input, possible
from bct_onnx.runtime.understanding import signals
from bct_onnx.runtime.understanding.meaning import Meaning, channel_axis, is_floating
from bct_onnx.runtime.understanding.signals import Family
from bct_onnx.runtime.understanding.sizes import FreeSizes, Sizes

Array = np.ndarray[Any, Any]

COLOURS = ((-2.0, 2.45), (-1.0, 1.0), (0.0, 1.0))
"""Ranges of colours that models compute with: normalized as for ImageNet, around zero, as they are."""


@dataclass(frozen=True)
class Draw:
    """Which sample is made.

    Attributes:
        seed: Of all values.
        padding: Give every row but the first a random length from half to all of the sequence, padded at the right.
        family: Which signals.
    """

    seed: int = 0
    padding: bool = False
    family: Family = "calibrate"


def make(
    inputs: Sequence[Input], meanings: Mapping[str, Meaning], free: FreeSizes, draw: Draw = Draw()
) -> dict[str, Array]:
    """One valid sample.

    Raises:
        TargetError: A declared size is impossible.
    """
    sizes = Sizes(inputs, meanings, free)
    shapes = {declared.name: possible(declared, sizes.shape(declared)) for declared in inputs}
    maker = _Maker(inputs, meanings, shapes, free, draw)
    return {declared.name: maker.values(declared).astype(declared.dtype) for declared in inputs}


class _Maker:
    """Makes the values of one sample; lengths are the same in all inputs."""

    def __init__(
        self,
        inputs: Sequence[Input],
        meanings: Mapping[str, Meaning],
        shapes: Mapping[str, tuple[int, ...]],
        free: FreeSizes,
        draw: Draw,
    ) -> None:
        self._inputs, self._meanings, self._shapes, self._free, self._draw = inputs, meanings, shapes, free, draw
        self._rng = np.random.default_rng(draw.seed)  # of token ids and normal numbers, in the order of the inputs
        batch, sequence = free.batch, free.sequence
        whole = np.full(batch, sequence)
        self._lengths = self._rng.integers((sequence + 1) // 2, sequence + 1, size=batch) if draw.padding else whole
        self._lengths[:1] = sequence

    def values(self, declared: Input) -> Array:
        """Of one input, in any type."""
        meaning, shape = self._meanings[declared.name], self._shapes[declared.name]
        kind = meaning.kind
        if kind == "text":
            return self._texts(meaning, shape)
        if kind == "ids":
            return self._rng.integers(0, meaning.below, size=shape)
        if kind in ("past", "embeds"):
            if is_floating(declared):
                return self._rng.standard_normal(shape)
            return np.zeros(shape)
        if kind == "picks":  # rows are half as long as the longest at least
            return self._rng.integers(0, max(1, self._free.sequence // 2), size=shape)
        if kind == "part":
            return np.resize(self._lengths / max(1, self._free.sequence), shape)
        if kind == "mask":
            return self._mask(meaning, shape)
        if kind == "positions":
            return np.broadcast_to(self._free.past + np.arange(shape[-1]), shape)
        if kind == "types" and self._draw.family == "check" and len(shape) == 2:  # the second half is another text
            return np.broadcast_to((2 * np.arange(shape[1]) >= shape[1]) & (meaning.below > 1), shape)
        if kind in ("setting", "branch"):
            return np.broadcast_to(np.asarray(meaning.valid), shape)
        if kind in ("image", "audio", "features"):
            return self._signal(declared, meaning, shape)
        if kind in ("length", "cumulative", "total", "seqlens"):
            return self._count(declared, meaning, shape)
        return np.zeros(shape)

    def _mask(self, meaning: Meaning, shape: tuple[int, ...]) -> Array:
        """Two axes: what lies beyond a row's length is hidden. Others show everything."""
        if len(shape) != 2:
            return np.full(shape, meaning.valid)
        earlier = self._free.past if shape[1] > max(self._lengths, default=0) else 0
        lengths = self._lengths_of(shape[1] - earlier)
        shown = np.arange(shape[1]) < earlier + np.resize(lengths, shape[0])[:, None]
        return np.where(shown, meaning.valid, meaning.hidden)

    def _texts(self, meaning: Meaning, shape: tuple[int, ...]) -> Array:
        """Words, or texts of as many words as a row has tokens."""
        words = np.array(meaning.words, np.object_)
        if not meaning.joint:
            return self._rng.choice(words, shape)
        counts = np.resize(self._lengths, shape)
        texts = [meaning.joint.join(self._rng.choice(words, count)) for count in counts.flat]
        return np.array(texts, np.object_).reshape(shape)

    def _lengths_of(self, size: int) -> Array:
        """The rows' lengths along an axis of ``size``: as large a part of it as of the sequence."""
        if size == self._free.sequence or not self._free.sequence:
            return self._lengths
        return -(-self._lengths * size // self._free.sequence)

    def _count(self, declared: Input, meaning: Meaning, shape: tuple[int, ...]) -> Array:
        axis = self._measured(declared, meaning)
        total = self._free.past + self._free.sequence
        if meaning.kind == "total":
            return np.full(shape, total)
        if meaning.kind == "seqlens":
            return np.full(shape, total - 1)
        if meaning.kind == "cumulative":
            return np.linspace(0, axis, shape[0]).astype(np.int64)
        lengths = np.maximum(1, np.ceil(self._lengths_of(axis) / meaning.divisor))
        if not shape or shape[0] != len(lengths):
            return np.full(shape, lengths.max(initial=1))
        return np.broadcast_to(lengths.reshape(-1, *(1,) * (len(shape) - 1)), shape)

    def _measured(self, declared: Input, meaning: Meaning) -> int:
        """The axis that a length counts: of the inputs that the graph names, else of the nearest one before it."""
        names = names_of(self._inputs)
        content = [name for name in names if self._meanings[name].is_content]
        named = [name for name in content if name in meaning.of]
        before = [name for name in content if names.index(name) < names.index(declared.name)]
        alike = [name for name in content if declared.name.startswith(name.rstrip("s"))]
        nearest = (alike or named or before[-1:] or content)[:1]
        if nearest:
            return time_size(by_name(self._inputs)[nearest[0]], self._shapes[nearest[0]], self._meanings)
        return 1

    def _signal(self, declared: Input, meaning: Meaning, shape: tuple[int, ...]) -> Array:
        rng = np.random.default_rng([self._draw.seed, zlib.crc32(declared.name.encode())])
        family = self._draw.family
        if meaning.kind == "audio":
            return _ranged(signals.sounds(rng, shape, family), declared, meaning)
        if meaning.kind == "features":
            spectrum = _before(signals.features(rng, shape, time_axis(declared), family), meaning.affine)
            if meaning.is_positive:
                return np.exp(spectrum)
            return spectrum
        return _picture(rng, declared, meaning, shape, family)


def _before(after: Array, affine: tuple[float, float]) -> Array:
    """Numbers that become ``after`` by a factor and a term."""
    factor, term = affine
    before: Array = (after - term) / factor if abs(factor) > 1e-6 else after
    return before


def _picture(
    rng: np.random.Generator, declared: Input, meaning: Meaning, shape: tuple[int, ...], family: Family
) -> Array:
    """Colours in the range that the type, or what the model does with them first, asks for."""
    colours = channel_axis(declared)
    planes = [size for axis, size in enumerate(shape) if axis >= len(shape) - 3 and axis != colours]
    count = int(np.prod(shape[: len(shape) - 3], dtype=np.int64))
    pictures = signals.pictures(rng, (count, shape[colours], planes[0], planes[1]), family)
    pictures = np.moveaxis(pictures, 1, 1 + colours - (len(shape) - 3)).reshape(shape)
    if not is_floating(declared):
        return np.rint(255.0 * pictures)
    low, high = _colour_range(meaning.affine)
    return low + (high - low) * pictures


def _colour_range(affine: tuple[float, float]) -> tuple[float, float]:
    """The usual range of colours that a factor and a term bring nearest to numbers around 0."""
    factor, term = affine

    def distance(colours: tuple[float, float]) -> float:
        ends = [factor * end + term for end in colours]
        return min(abs(ends[0] - low) + abs(ends[1] - high) for low, high in COLOURS)

    return min((*COLOURS, (0.0, 255.0)), key=distance)


def _ranged(sound: Array, declared: Input, meaning: Meaning) -> Array:
    """Sound in the range of its type."""
    if is_floating(declared):
        if abs(meaning.affine[0]) < 0.001:
            return sound * 32767
        return sound
    top = np.iinfo(declared.dtype).max if declared.dtype.itemsize <= 2 else 32767
    middle = 128 if declared.dtype.kind == "u" else 0
    whole: Array = np.clip(np.rint(middle + sound * (top - middle)), middle - (top - middle), top)
    return whole


def time_axis(declared: Input) -> int:
    """The axis along which an input has a sequence: the first free one behind the batch, else the longest."""
    sizes = sized(declared.shape[1:], np.inf)
    if sizes:
        return 1 + int(np.argmax(sizes))
    return 0


def time_size(declared: Input, shape: tuple[int, ...], meanings: Mapping[str, Meaning]) -> int:
    """How long an input's sequence is."""
    if meanings[declared.name].kind == "audio":
        return shape[-1]
    return shape[time_axis(declared)] if shape else 1
