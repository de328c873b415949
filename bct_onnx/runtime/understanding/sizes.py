"""Sizes of the dimensions that inputs leave free: by their symbols, else by what the input is."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from bct_onnx.runtime.inputs import Input
from bct_onnx.runtime.understanding.meaning import Meaning, channel_axis

SPEAKING = ("ids", "past", "image", "audio", "features")
"""Kinds whose axes are known."""

FRAMES = 4
"""Frames of a signal for each token that is asked for: encoders of speech make a few into one."""


@dataclasses.dataclass(frozen=True)
class FreeSizes:
    """How large free dimensions are to be.

    Attributes:
        batch: Of batches.
        sequence: Of sequences.
        past: Length of the caches.
        image: Height and width of images.
        frames: Frames of a signal for each token; 0 means the 3000 that Whisper takes.
        samples: Samples of sound.
        per_token: Frames, samples or columns of a signal for each token instead; 0 for those above.
    """

    batch: int = 1
    sequence: int = 16
    past: int = 0
    image: tuple[int, int] = (224, 224)
    frames: int = 0
    samples: int = 16_000  # one second; convolutional encoders need at least 25 ms
    per_token: int = 0


class Sizes:
    """Sizes of symbolic dimensions, the same for the same symbol wherever it appears."""

    def __init__(self, inputs: Sequence[Input], meanings: Mapping[str, Meaning], free: FreeSizes) -> None:
        self._meanings, self._free = meanings, free
        self._symbols: dict[str, int] = {}
        self._of_signals: set[str] = set()
        # Inputs whose axes are known by what they are speak first: an exporter may call the batch `s0`. A single axis
        # called `n` is a batch only where others say so.
        for declared in sorted(inputs, key=lambda i: (self._kind(i) not in SPEAKING, len(i.shape) == 1)):
            for axis, dim in enumerate(declared.shape):
                if isinstance(dim, str) and dim.isidentifier():
                    if dim not in self._symbols and self._kind(declared) in ("features", "audio"):
                        self._of_signals.add(dim)
                    self._symbols.setdefault(dim, self._size(declared, axis, dim))

    def shape(self, declared: Input) -> tuple[int, ...]:
        """The sizes of all dimensions of an input."""
        return tuple(
            dim if isinstance(dim, int) else self._resolve(declared, axis, dim)
            for axis, dim in enumerate(declared.shape)
        )

    def _kind(self, declared: Input) -> str:
        return self._meanings[declared.name].kind

    def _resolve(self, declared: Input, axis: int, dim: str | None) -> int:
        if self._kind(declared) == "mask" and len(declared.shape) == 2 and axis == 1 and dim not in self._of_signals:
            # Whatever it is called: past plus sequence. An encoder's mask has the length of its input.
            return self._free.sequence + (0 if "encoder" in declared.name else self._free.past)
        terms = list(map(str.strip, (dim or "").split("+")))
        if all(term in self._symbols or term.isdigit() for term in terms):
            return sum(self._symbols[term] if term in self._symbols else int(term) for term in terms)
        return self._size(declared, axis, dim or "")

    def _size(self, declared: Input, axis: int, symbol: str) -> int:
        """By the symbol if it tells, else by what this input has on this axis, else batch first and sequence next."""
        name, kind, free = symbol.lower(), self._kind(declared), self._free
        rank, is_content = len(declared.shape), self._meanings[declared.name].is_content
        if re.search(r"batch|^bs?$", name) or (name == "n" and axis == 0 and (rank > 1 or not is_content)):
            return free.batch
        if re.search(r"encoder_seq", name) and kind not in ("features", "audio"):
            return free.sequence
        if re.search(r"total|kv_seq", name) and kind not in ("features", "audio"):
            return free.sequence + free.past
        if re.search(r"past|cache", name):
            return free.past
        usual = self._usual(declared)
        if axis < len(usual):
            return usual[axis]
        if re.search(r"seq|len|^[nst]$", name) or (rank == 1 and kind == "positions"):
            return free.sequence
        return free.batch if axis == 0 else free.sequence

    def _usual(self, declared: Input) -> tuple[int, ...]:
        """What an input of a kind has on its first axes."""
        free, kind, rank = self._free, self._kind(declared), len(declared.shape)
        if kind == "past":
            return (free.batch, 1, free.sequence if "encoder" in declared.name else free.past, 1)
        if kind == "features":
            bands = 80 if "input_features" in declared.name else 0
            long = (free.per_token or free.frames) * free.sequence or 3000
            if bands:
                return (free.batch, bands, long)
            return (free.batch, *(long,) * (rank - 1))
        if kind == "audio":
            return (*(free.batch, 1)[: rank - 1], free.per_token * free.sequence or free.samples)
        if kind == "cumulative":
            return (2,)
        if kind == "state":  # of layers, or none: what is not fixed is the batch
            return (free.batch,) * rank
        if kind != "image" or rank < 3:
            return ()
        colours = channel_axis(declared)
        is_line = free.per_token and isinstance(declared.shape[-2], int)
        sides = [free.image[0], free.per_token * free.sequence] if is_line else [*free.image]
        three = [3 if axis == colours else sides.pop(0) for axis in range(rank - 3, rank)]
        return (*(free.batch,) * (rank - 3), *three)
