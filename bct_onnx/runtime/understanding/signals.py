"""Numbers that look like pictures, sound and features, at several levels of contrast.

Noise is no picture: a convolution averages it away, where edges and slow changes pass. Every fourth sample is noise all
the same, since nothing else reaches every channel alike. A `Family` tells samples that calibrate from those that check.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from bct_onnx.runtime.understanding.meaning import Meaning
from bct_onnx.runtime.understanding.uses import Uses

Array = np.ndarray[Any, Any]
Family = Literal["calibrate", "check"]

LEVELS = (1.0, 0.5, 2.0, 1.0)
"""Sizes of samples in turn, for what has no range of its own."""


KINDS = ("audio", "features", "image")
"""Kinds of inputs that are signals: measured, not written."""


def has_signals(meanings: Iterable[Meaning]) -> bool:
    """Whether there are pictures, sound or features among inputs."""
    return any(meaning.kind in KINDS for meaning in meanings)


def strided(readings: Mapping[str, Sequence[Meaning]], uses: Mapping[str, Uses]) -> int:
    """The most frames of a signal that make a token; 1 where there is no signal."""
    signals = (name for name, options in readings.items() if options[0].kind in KINDS)
    return max((uses[name].stride for name in signals), default=1)


def pictures(rng: np.random.Generator, shape: tuple[int, int, int, int], family: Family) -> Array:
    """Pictures with values from 0 to 1, [N, C, H, W]: light from one side, areas with edges, lines like writing."""
    count, channels, height, width = shape
    drawings = np.empty(shape)
    for at in range(count):
        if at % 4 == 3:
            drawings[at] = rng.random((channels, height, width))
            continue
        ground = _smooth(_smooth(rng.random((channels, 4, 4)), 1, height), 2, width)
        draw = _areas if family == "calibrate" else _rings
        drawn = draw(rng, ground)
        _write(rng, drawn)
        contrast, light = (1.0, 0.6, 0.3)[at % 4], rng.random()
        grain = rng.normal(0, 0.02, drawn.shape)
        drawings[at] = np.clip(light * (1 - contrast) + contrast * drawn + grain, 0, 1)
    return drawings


def sounds(rng: np.random.Generator, shape: tuple[int, ...], family: Family) -> Array:
    """Tones that swell and fade, along the last axis; every other one is soft."""
    rows = int(np.prod(shape[:-1], dtype=np.int64))
    time = np.arange(shape[-1])
    tracks = np.empty((rows, shape[-1]))
    for at in range(rows):
        pitches = np.exp(rng.uniform(np.log(0.002), np.log(0.15), 4))
        glide = rng.uniform(0, 0.5) / max(1, shape[-1]) if family == "check" else 0.0
        tones = np.sin(2 * np.pi * pitches[:, None] * time * (1 + glide * time) + rng.uniform(0, 6, (4, 1)))
        beats = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.5, 4) * time / max(1, shape[-1]) + rng.uniform(0, 6))
        sound = beats * tones.sum(axis=0) / 2 + rng.normal(0, 0.02, shape[-1])
        if at % 4 == 3:
            sound = rng.normal(0, 1, shape[-1])
        tracks[at] = sound * (1.0, 0.1, 0.3, 0.3)[at % 4]
    return tracks.reshape(shape)


def features(rng: np.random.Generator, shape: tuple[int, ...], axis: int, family: Family) -> Array:
    """Numbers around 0 that change along ``axis`` as in spectra: slowly, or in steps; each row in another way."""
    spectra = rng.standard_normal(shape)
    if len(shape) < 2 or shape[axis] < 2:
        return spectra
    for at in range(shape[0]):
        row = spectra[at]
        along = axis - 1 if axis > 0 else axis
        length = row.shape[along]
        coarse = rng.standard_normal((*row.shape[:along], max(2, -(-length // 8)), *row.shape[along + 1 :]))
        if at % 4 == 0:
            row = np.take(coarse, np.arange(length) // 8, axis=along) + 0.1 * row
        elif at % 4 == 1:
            row = _smooth(coarse, along, length) * 1.5 + 0.05 * row
        elif at % 4 == 2 and family == "check":
            row = np.cumsum(row, axis=along) / np.sqrt(length)
        elif at % 4 == 2:
            row = np.take(coarse, np.arange(length) // 8, axis=along)
        spectra[at] = row * LEVELS[at % 4]
    return spectra


def _smooth(coarse: Array, axis: int, size: int) -> Array:
    """Few points joined by straight lines to ``size`` points along an axis."""
    last = coarse.shape[axis] - 1
    places = np.linspace(0, last, size)
    low = np.minimum(places.astype(int), max(0, last - 1))
    share = (places - low).reshape([-1 if at == axis else 1 for at in range(coarse.ndim)])
    following = np.minimum(low + 1, last)
    mixed: Array = np.take(coarse, low, axis=axis) * (1 - share) + np.take(coarse, following, axis=axis) * share
    return mixed


def _areas(rng: np.random.Generator, ground: Array) -> Array:
    """Rectangles of one colour on the ground."""
    channels, height, width = ground.shape
    for _ in range(6):
        top, left = int(rng.integers(0, height)), int(rng.integers(0, width))
        high, wide = int(rng.integers(1, max(2, height // 2 + 1))), int(rng.integers(1, max(2, width // 2 + 1)))
        ground[:, top : top + high, left : left + wide] = rng.random((channels, 1, 1))
    return ground


def _rings(rng: np.random.Generator, ground: Array) -> Array:
    """Discs of one colour on the ground, and a grid of squares in a part of it."""
    channels, height, width = ground.shape
    rows, columns = np.mgrid[:height, :width]
    for _ in range(4):
        away = np.hypot(rows - rng.uniform(0, height), columns - rng.uniform(0, width))
        inside = away < rng.uniform(1, max(2.0, min(height, width) / 2.5))
        ground = np.where(inside, rng.random((channels, 1, 1)), ground)
    checks = (rows // 4 + columns // 4) % 2
    part = columns > width * rng.uniform(0.4, 0.9)
    return np.where(part, 0.2 + 0.6 * checks, ground)


def _write(rng: np.random.Generator, picture: Array) -> None:
    """Draw thin dark or light strokes, upright and level, in rows as writing has them."""
    _, height, width = picture.shape
    for _ in range(max(2, width // 4)):
        top, left = int(rng.integers(0, height)), int(rng.integers(0, width))
        long = int(rng.integers(2, max(3, height // 4 + 1)))
        ink = 0.05 if rng.random() < 0.75 else 0.95
        if rng.random() < 0.5:
            picture[:, top : top + long, left : left + 1] = ink
        else:
            picture[:, top : top + 1, left : left + long] = ink
