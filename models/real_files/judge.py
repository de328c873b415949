"""Rewrite one real file with one preset for one target, and judge the result in ONNX Runtime on inputs of its kind."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from bct_onnx.quant import Error
from bct_onnx.runtime.session import ORT_ERRORS
from models.real_files import pictures, signals, texts
from models.real_files.decisions import (
    Reading,
    Turned,
    above,
    best_of,
    best_of_probabilities,
    characters,
    nearest,
    seen,
    spindles,
    spoken,
    turned,
)
from models.real_files.pictures import Feeds, Outputs
from models.real_files.running import Limits, Runner

QDQ_ACCURACY = "session.qdq_matmulnbits_accuracy_level"


@dataclasses.dataclass(frozen=True)
class Samples:
    """How inputs of a kind are made, and how the outputs of each are read."""

    make: Callable[[Path], list[Feeds]]
    reading: Reading


SAMPLES = {
    "lines_32": Samples(pictures.lines_32, Reading(best_of_probabilities, characters)),
    "lines_48": Samples(pictures.lines_48, Reading(best_of_probabilities, characters)),
    "pictures": Samples(pictures.pictures, Reading(seen)),
    "sleep": Samples(signals.sleep, Reading(spindles)),
    "spectrogram": Samples(signals.spectrogram, Reading(best_of)),
    "sound": Samples(signals.sound, Reading(above(0.5))),
    "thai": Samples(texts.thai, Reading(above(0.0))),
    "khmer": Samples(texts.khmer, Reading(best_of)),
    "arabic": Samples(texts.arabic, Reading(best_of)),
    "phonemes": Samples(texts.phonemes, Reading(spoken)),
    "bytes_of_files": Samples(texts.bytes_of_files, Reading(best_of_probabilities)),
    "sentences": Samples(texts.sentences, Reading(nearest)),
}


@dataclasses.dataclass
class Cell:
    """One file, preset and target.

    Attributes:
        exit: Exit code of the rewrite; -9 and the like where a limit ended it.
        error: The first paragraph of its errors, empty if there is none.
        seconds: Of processor time.
        memory: The most it held, MB.
        ratio: Bytes of the source over bytes of the result.
        sqnr_db: Of the worst output, all samples together, against the source in float32; None without a result, or
            where the outputs have other shapes.
        answers: Samples whose answer is the source's, of how many.
        turned: Choices behind the answers that came out otherwise; None as for ``sqnr_db``.
        fault: What ONNX Runtime says of a result that it does not load or run.
    """

    exit: int
    error: str
    seconds: float
    memory: float
    ratio: float | None = None
    sqnr_db: float | None = None
    answers: tuple[int, int] | None = None
    turned: Turned | None = None
    fault: str = ""


@dataclasses.dataclass(frozen=True)
class Source:
    """A real file, inputs of its kind and what it makes of them."""

    model: Path
    samples: Samples
    feeds: list[Feeds]
    outputs: list[Outputs]


def source(model: Path, samples: Samples) -> Source:
    """Run the real file; without optimizations where they fail."""
    feeds = samples.make(model)
    try:
        outputs = _run(_session(model), feeds)
    except ORT_ERRORS as error:
        print(f"{model.name} runs without optimizations only: {error}", file=sys.stderr)
        outputs = _run(_session(model, optimize=False), feeds)
    return Source(model, samples, feeds, outputs)


def judge(runner: Runner, original: Source, out: Path, preset: str, target: str, limits: Limits) -> Cell:
    """Rewrite and judge."""
    arguments = ["rewrite", str(original.model), "-o", str(out), "--force", "--preset", preset, "--target", target]
    ended = runner.run(arguments, limits)
    error = " ".join(ended.errors.split("\n\n")[0].split()).replace(str(original.model), original.model.name)
    cell = Cell(ended.exit, error[:600], ended.seconds, ended.memory)
    if cell.exit:
        return cell
    cell.ratio = _size(original.model) / _size(out)
    try:
        session = _session(out)
        original = _fitted(original, session)
        outputs = _run(session, original.feeds)
    except ORT_ERRORS as fault:
        cell.fault = str(fault).strip().splitlines()[0][:200]
        return cell
    cell.sqnr_db = _sqnr(original.outputs, outputs)
    reading = original.samples.reading
    same = [
        reading.read(before) == reading.read(after) for before, after in zip(original.outputs, outputs, strict=True)
    ]
    cell.answers = sum(same), len(same)
    cell.turned = None if cell.sqnr_db is None else turned(reading, original.outputs, outputs)
    return cell


def _fitted(original: Source, session: ort.InferenceSession) -> Source:
    """The source on inputs of the sizes that ``session`` has fixed: cut, or repeated from the start."""
    declared = {each.name: each.shape for each in session.get_inputs()}
    feeds = [
        {name: _of_shape(value, declared.get(name, value.shape)) for name, value in sample.items()}
        for sample in original.feeds
    ]
    shapes = [[value.shape for value in sample.values()] for sample in feeds]
    if shapes == [[value.shape for value in sample.values()] for sample in original.feeds]:
        return original
    return dataclasses.replace(original, feeds=feeds, outputs=_run(_session(original.model), feeds))


def _of_shape(value: npt.NDArray[Any], shape: Sequence[int | str | None]) -> npt.NDArray[Any]:
    for axis, size in enumerate(shape):
        if isinstance(size, int) and size != value.shape[axis]:
            value = np.take(value, np.arange(size) % value.shape[axis], axis)
    return value


def _size(model: Path) -> int:
    """Bytes of a model and of the file of its external data, if there is one."""
    data = model.with_name(model.name + ".data")
    return model.stat().st_size + (data.stat().st_size if data.exists() else 0)


def _session(model: Path, *, optimize: bool = True) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry(QDQ_ACCURACY, "0")  # products of decoded weights in float, as written
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def _run(session: ort.InferenceSession, feeds: Sequence[Feeds]) -> list[Outputs]:
    names = {one.name for one in session.get_inputs()}
    return [session.run(None, {name: value for name, value in one.items() if name in names}) for one in feeds]


def _sqnr(before: Sequence[Outputs], after: Sequence[Outputs]) -> float | None:
    """Of the worst output, dB; None where shapes differ."""
    worst = math.inf
    for ours, theirs in zip(zip(*after, strict=True), zip(*before, strict=True), strict=True):
        if any(one.shape != other.shape for one, other in zip(ours, theirs, strict=True)):
            return None
        flat = [np.concatenate([one.ravel() for one in some]) for some in (theirs, ours)]
        worst = min(worst, _db(*flat))
    return worst


def _db(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> float:
    """20 log10 of the root mean square of what it should be over that of the difference."""
    error = Error.of(before, after)
    return error.sqnr_db if math.isfinite(error.noise) else -math.inf
