"""Signals as sensors give them: brain waves with spindles, a voice between silences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from models.real_files.pictures import Feeds

Signal = npt.NDArray[np.float64]
_RATE = 250
_VOICE_RATE = 16_000
_CHUNK, _CONTEXT = 512, 64


def sleep(model: Path) -> list[Feeds]:
    """30 s of EEG with some spindles: the signal [1, 1, 7500] and its bands [1, 15, 7500], each with deviation 1."""
    waves = [_brain(seed, spindles) for seed, spindles in enumerate((3, 0, 6, 1))]
    return [
        {"raw_signal": _standard(one)[None, None].astype(np.float32), "spectrogram": _bands(one)[None]} for one in waves
    ]


def spectrogram(model: Path) -> list[Feeds]:
    """Powers of 100 frequencies over time, logarithms with deviation 1 [1, 100, time]."""
    return [{"x": _powers(_brain(seed, seed), 100)[None]} for seed in range(4)]


def sound(model: Path) -> list[Feeds]:
    """Chunks of a voice between silences with the context before and the state that the source has by then."""
    source = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    wave, state, made = _voice(), np.zeros((2, 1, 128), np.float32), list[Feeds]()
    for start in range(_CONTEXT, len(wave) - _CHUNK, _CHUNK):
        chunk = wave[None, start - _CONTEXT : start + _CHUNK].astype(np.float32)
        feeds: Feeds = {"input": chunk, "state": state, "sr": np.array(_VOICE_RATE, np.int64)}
        made.append(feeds)
        state = source.run(None, feeds)[1]
    return made


def _brain(seed: int, count: int) -> Signal:
    """Noise that is louder the slower it is, as brains have it, and spindles: a second of 13 Hz each."""
    rng = np.random.default_rng(seed)
    length = 30 * _RATE
    frequencies = np.fft.rfftfreq(length, 1 / _RATE)
    noise = np.fft.irfft(np.fft.rfft(rng.normal(size=length)) / np.maximum(frequencies, 0.5) ** 0.8, length)
    time = np.arange(length) / _RATE
    bursts = [np.exp(-(((time - at) / 0.35) ** 2)) * np.sin(2 * np.pi * 13 * time) for at in rng.uniform(2, 28, count)]
    return _standard(noise) + 1.2 * np.sum(bursts, axis=0) if bursts else _standard(noise)


def _bands(wave: Signal) -> npt.NDArray[np.float32]:
    """Magnitude in 15 bands, each from 10/13 to 16/13 of its middle (complex Shannon wavelets of bandwidth 6 and
    centre 13 at scales from 135 to 270 samples)."""
    spectrum, frequencies = np.fft.fft(wave), np.fft.fftfreq(len(wave), 1 / _RATE)
    rows = []
    for scale in np.geomspace(135, 270, 15):
        inside = (frequencies > 10 * _RATE / scale) & (frequencies < 16 * _RATE / scale)
        rows.append(_standard(np.abs(np.fft.ifft(spectrum * inside))))
    return np.stack(rows).astype(np.float32)


def _powers(wave: Signal, rows: int) -> npt.NDArray[np.float32]:
    """Short-time spectrum, windows of one second moved by a quarter of it."""
    windows = np.lib.stride_tricks.sliding_window_view(wave, _RATE)[:: _RATE // 4] * np.hanning(_RATE)
    powers = np.log(np.abs(np.fft.rfft(windows, axis=-1))[:, 1 : rows + 1] ** 2 + 1e-3)
    return np.asarray(_standard(powers.T), np.float32)


def _voice() -> Signal:
    """Vowels, with a pulse of 110 to 140 Hz and three resonances each, between silences."""
    rng = np.random.default_rng(0)
    silence = rng.normal(0, 1e-3, 6 * _CHUNK)
    vowels = [_vowel(formants) for formants in ((730, 1090, 2440), (270, 2290, 3010), (570, 840, 2410))]
    wave = np.concatenate([silence, *vowels, silence, *vowels[::-1], silence])
    return np.asarray(wave + rng.normal(0, 1e-3, len(wave)))


def _vowel(formants: tuple[int, ...]) -> Signal:
    length = 8 * _CHUNK
    time = np.arange(length) / _VOICE_RATE
    phase = np.cumsum(110 + 30 * np.sin(np.pi * time / time[-1])) / _VOICE_RATE
    spectrum = np.fft.rfft(np.diff(np.floor(phase), prepend=0.0))
    frequencies = np.fft.rfftfreq(length, 1 / _VOICE_RATE)
    shape = sum(1 / (1 + ((frequencies - one) / 60) ** 2) for one in formants)
    wave = np.fft.irfft(spectrum * shape, length) * np.hanning(length) ** 0.3
    return np.asarray(0.3 * wave / np.abs(wave).max())


def _standard(values: Signal) -> Signal:
    """Along the last axis: mean 0, deviation 1."""
    return np.asarray((values - values.mean(-1, keepdims=True)) / values.std(-1, keepdims=True))
