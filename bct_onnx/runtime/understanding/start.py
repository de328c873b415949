"""The first sizes and readings that a model runs on."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

from bct_onnx.errors import TargetError
from bct_onnx.runtime.inputs import Input
from bct_onnx.runtime.understanding.meaning import Meaning
from bct_onnx.runtime.understanding.sizes import FRAMES, FreeSizes
from bct_onnx.runtime.understanding.trial import Trial
from bct_onnx.runtime.understanding.values import make

SIDES = (64, 96, 128, 32, 48, 224, 256, 384, 512, 336, 448, 518)
"""Heights and widths of images that are tried, where both are free. Not the smallest first: of 32 pixels little is left
behind strides of 32."""

SEQUENCES, TINY = (16, 32, 8, 64, 128, 256, 512), (4, 2, 1)
"""Lengths of sequences that are tried; those that fit beside others by being broadcast come last."""

SOUNDS = (16_000, 4_000, 48_000, 160_000, 1_000, 512)
"""Lengths of sound that are tried, in samples."""

COMBINATIONS, ATTEMPTS = 24, 400
"""Readings of all inputs together that are tried at one size, and at all sizes, until one runs."""


Options = Mapping[str, Sequence[Meaning]]


def start(inputs: Sequence[Input], options: Options, trial: Trial, stride: int) -> tuple[dict[str, Meaning], FreeSizes]:
    """Try sizes, the usual and small ones first, and readings of all inputs together, until the model runs.

    Args:
        inputs: What the model declares.
        options: The readings of each input.
        trial: The model.
        stride: Frames of a signal that make a token.

    Raises:
        TargetError: It runs on none; the first error.
    """
    error: TargetError | None = None
    tried = itertools.product(_sizes(inputs, options, stride), _combinations(options))
    for free, meanings in itertools.islice(tried, ATTEMPTS):
        try:
            trial.outputs(make(inputs, meanings, free))
        except TargetError as failed:
            error = error or failed
        else:
            return meanings, free
    assert error is not None
    raise error


def _sizes(inputs: Sequence[Input], options: Options, stride: int) -> Iterator[FreeSizes]:
    """Sizes of what is free, the usual ones first; then a signal as long as the tokens that it makes."""
    kinds = {meaning.kind for meaning in itertools.chain(*options.values())}
    rows = [declared.shape[1] for declared in inputs if len(declared.shape) == 2]
    fixed = [size for size in rows if isinstance(size, int)]
    sequences = dict.fromkeys((*SEQUENCES[:1], *fixed, *SEQUENCES[1:]))
    sides = SIDES if "image" in kinds else SIDES[:1]
    sounds = SOUNDS if "audio" in kinds else SOUNDS[:1]
    frames = (FRAMES, 1, 0) if "features" in kinds else (FRAMES,)
    signals = [
        FreeSizes(image=(side, side), frames=per_token, samples=sound)
        for side, sound, per_token in itertools.product(sides, sounds, frames)
    ]
    strided = [dataclasses.replace(signals[0], per_token=stride)] if stride > 1 else []
    free = (*signals[:1], *strided, *signals[1:])
    for sizes, sequence in (*itertools.product(free, sequences), *itertools.product(free, TINY)):
        yield dataclasses.replace(sizes, sequence=sequence)


def _combinations(options: Options) -> Iterator[dict[str, Meaning]]:
    """Readings of all inputs, the likeliest first; which way round a mask is changes nothing about running."""
    tried = [readings[:1] if readings[0].kind == "mask" else readings for readings in options.values()]
    for chosen in itertools.islice(itertools.product(*tried), COMBINATIONS):
        yield dict(zip(options, chosen, strict=True))
