"""The first sizes and readings that a model runs on: a search bounded by trials and by what they cost."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from bct_onnx.errors import TargetError
from bct_onnx.graph.known import sizes_of
from bct_onnx.graph.names import by_name, map_values
from bct_onnx.runtime.inputs import Input
from bct_onnx.runtime.understanding.meaning import Meaning
from bct_onnx.runtime.understanding.sizes import FRAMES, FreeSizes, Sizes
from bct_onnx.runtime.understanding.trial import Feeds, Trial
from bct_onnx.runtime.understanding.values import make

SIDES = (64, 96, 128, 32, 48, 224, 256, 384, 512, 336, 448, 518)
"""Heights and widths of images that are tried, where both are free. Not the smallest first: of 32 pixels little is left
behind strides of 32."""

SEQUENCES, TINY = (16, 32, 8, 64, 128, 256, 512), (4, 2, 1)
"""Lengths of sequences that are tried; those that fit beside others by being broadcast come last."""

SOUNDS = (16_000, 4_000, 48_000, 160_000, 1_000, 512)
"""Lengths of sound that are tried, in samples."""

COMBINATIONS, ATTEMPTS = 24, 240
"""Readings of all inputs together that are tried at one size, and samples that are tried at all sizes."""

TOKENS, LONGEST = 1 << 15, 1 << 12
"""Tokens that all trials compute together, four times those of a calibration, and those of a single one behind the
first. Attention over ten thousand, 10 s of sound with a token for every 16 samples, takes seconds and a GiB."""

HOPS = {"audio": 160, "image": 16}
"""Frames of a signal that usually make a token, where the graph tells nothing of it."""

Options = Mapping[str, Sequence[Meaning]]


@dataclasses.dataclass(frozen=True)
class Hints:
    """What the graph tells about sizes.

    Attributes:
        stride: Frames of a signal that make a token; 1 where it tells nothing of it.
        lengths: Sequences that constants are made for.
    """

    stride: int = 1
    lengths: tuple[int, ...] = ()


class RunsOnNothingError(TargetError):
    """The model runs on no sample that was tried.

    Attributes:
        sample: The first of them.
    """

    def __init__(self, first: TargetError, sample: Feeds, *, tried: int, options: Options) -> None:
        readings = "; ".join(f"{name}: {meanings[0].said()}" for name, meanings in options.items())
        why = f"{first.why} (tried {tried} samples, the first with {readings})"
        super().__init__(first.what, where=first.where, why=why, fix=first.fix)
        self.sample = sample


def start(
    inputs: Sequence[Input], options: Options, trial: Trial, hints: Hints
) -> tuple[dict[str, Meaning], FreeSizes]:
    """Try sizes, the usual and small ones first, and readings of all inputs together, until the model runs.

    Args:
        inputs: What the model declares.
        options: The readings of each input.
        trial: The model.
        hints: What its graph tells about sizes.

    Raises:
        RunsOnNothingError: It runs on none.
        TargetError: None can be made.
    """
    error: TargetError | None = None
    sample: Feeds = {}
    tried = 0
    for meanings, free in _affordable(inputs, options, hints):
        feeds: Feeds = {}
        tried += 1
        try:
            feeds = make(inputs, meanings, free)
            trial.outputs(feeds)
        except TargetError as failed:
            error, sample = error or failed, sample or feeds
        else:
            return meanings, free
    assert error is not None
    if not sample:
        raise error
    raise RunsOnNothingError(error, sample, tried=tried, options=options)


def _affordable(
    inputs: Sequence[Input], options: Options, hints: Hints
) -> Iterator[tuple[dict[str, Meaning], FreeSizes]]:
    """Readings and sizes, each sample once, until all of them together have cost enough."""
    seen: set[tuple[tuple[Meaning | tuple[int, ...], ...], ...]] = set()
    tokens = 0
    for free, meanings in itertools.product(_sizes(inputs, options, hints), _combinations(options)):
        shapes = map_values(Sizes(inputs, meanings, free).shape, by_name(inputs))
        cost = max((_tokens(declared, shapes[declared.name], meanings, hints) for declared in inputs), default=1)
        key = tuple((meanings[name], shape) for name, shape in shapes.items())
        if key in seen or (seen and cost > LONGEST):
            continue
        seen.add(key)
        tokens += cost
        if len(seen) > 1 and (tokens > TOKENS or len(seen) > ATTEMPTS):
            return
        yield meanings, free


def _tokens(declared: Input, shape: Sequence[int], meanings: Mapping[str, Meaning], hints: Hints) -> int:
    """How many tokens come of the free dimensions of an input."""
    hop = 1
    if (kind := meanings[declared.name].kind) in ("audio", "image", "features"):
        hop = hints.stride if hints.stride > 1 else HOPS.get(kind, 1)
    free = (size for size, dim in zip(shape, declared.shape, strict=True) if not isinstance(dim, int))
    return math.prod(-(-size // hop) for size in free)


def _sizes(inputs: Sequence[Input], options: Options, hints: Hints) -> Iterator[FreeSizes]:
    """Sizes of what is free, the usual ones first; then a signal as long as the tokens that it makes."""
    kinds = {meaning.kind for meaning in itertools.chain(*options.values())}
    rows = [declared.shape[1] for declared in inputs if len(declared.shape) == 2]
    fixed = sizes_of(rows)
    sequences = dict.fromkeys((*SEQUENCES[:1], *fixed, *hints.lengths, *SEQUENCES[1:]))
    sides = SIDES if "image" in kinds else SIDES[:1]
    sounds = SOUNDS if "audio" in kinds else SOUNDS[:1]
    frames = (FRAMES, 1, 0) if "features" in kinds else (FRAMES,)
    signals = [
        FreeSizes(image=(side, side), frames=per_token, samples=sound)
        for side, sound, per_token in itertools.product(sides, sounds, frames)
    ]
    strided = [dataclasses.replace(signals[0], per_token=hints.stride)] if hints.stride > 1 else []
    free = (*signals[:1], *strided, *signals[1:])
    for sizes, sequence in (*itertools.product(free, sequences), *itertools.product(free, TINY)):
        yield dataclasses.replace(sizes, sequence=sequence)


def _combinations(options: Options) -> Iterator[dict[str, Meaning]]:
    """Readings of all inputs, the likeliest first; which way round a mask is changes nothing about running."""
    tried = [readings[:1] if readings[0].kind == "mask" else readings for readings in options.values()]
    for chosen in itertools.islice(itertools.product(*tried), COMBINATIONS):
        yield dict(zip(options, chosen, strict=True))
