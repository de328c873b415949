"""Things that pictures, spectra and sounds consist of, drawn from a seed: nothing that a model sees is white noise."""

from __future__ import annotations

import numpy as np

from tests.fuzz.grown.builder import Array, Rng


def picture(rng: Rng, height: int, width: int) -> Array:
    """One channel [height, width] in 0..1: a shaded background with a few boxes on it."""
    rows, columns = np.mgrid[0:height, 0:width] / max(height, width)
    slope = rng.uniform(-1, 1, 2)
    drawn = 0.5 + 0.4 * (slope[0] * rows + slope[1] * columns)
    for _ in range(int(rng.integers(1, 5))):
        top, left = rng.integers(height), rng.integers(width)
        drawn[top : top + height // 3, left : left + width // 3] = rng.random()
    return np.asarray(np.clip(drawn, 0, 1))


def strokes(rng: Rng, height: int, width: int) -> Array:
    """Dark strokes on light ground [height, width] in 0..1."""
    drawn = np.full((height, width), rng.uniform(0.8, 1.0))
    at = int(rng.integers(3))
    while at < width:
        thick, top = int(rng.integers(1, 4)), int(rng.integers(height // 2))
        drawn[top : top + int(rng.integers(4, height)), at : at + thick] = rng.uniform(0.0, 0.2)
        at += int(rng.integers(3, 12))
    return drawn


def spectrum(rng: Rng, time: int, bands: int) -> Array:
    """Logarithms of energies [time, bands]: formants that move slowly, between silences near -10."""
    loud = np.clip(np.sin(np.linspace(0, rng.uniform(3, 9), time) + rng.uniform(0, 6)), 0, 1)
    centre = bands * (0.5 + 0.4 * np.sin(np.linspace(0, rng.uniform(2, 5), time) + rng.uniform(0, 6)))
    peaks = np.exp(-(((np.arange(bands) - centre[:, None]) / (bands / 8)) ** 2))
    return np.log(4e-5 + loud[:, None] * peaks) + 0.3 * rng.standard_normal((time, bands))


def wave(rng: Rng, samples: int) -> Array:
    """Two tones in -1..1 that swell and fade."""
    at = np.arange(samples)
    first, second = (np.sin(at * rng.uniform(0.05, 1.0) + rng.uniform(0, 6)) for _ in range(2))
    drawn: Array = 0.45 * (first + second) * (0.1 + np.sin(at * rng.uniform(0.001, 0.02)) ** 2)
    return drawn
