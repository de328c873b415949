"""Rewrite one real file with one preset for one target, and judge the result in ONNX Runtime on inputs of its kind."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from models.real_files import pictures, signals, texts
from models.real_files.pictures import Feeds, Outputs

QDQ_ACCURACY = "session.qdq_matmulnbits_accuracy_level"


@dataclasses.dataclass(frozen=True)
class Samples:
    """How inputs of a kind are made, and what answer the outputs of one stand for."""

    make: Callable[[Path], list[Feeds]]
    answer: Callable[[Feeds, Outputs], tuple[Any, ...]]


SAMPLES = {
    "lines_32": Samples(pictures.lines_32, pictures.characters),
    "lines_48": Samples(pictures.lines_48, pictures.characters),
    "pictures": Samples(pictures.pictures, pictures.seen),
    "sleep": Samples(signals.sleep, signals.spindles),
    "spectrogram": Samples(signals.spectrogram, pictures.likeliest),
    "sound": Samples(signals.sound, signals.is_speech),
    "thai": Samples(texts.thai, texts.begins),
    "khmer": Samples(texts.khmer, pictures.likeliest),
    "arabic": Samples(texts.arabic, pictures.likeliest),
    "phonemes": Samples(texts.phonemes, texts.duration),
    "bytes_of_files": Samples(texts.bytes_of_files, pictures.likeliest),
    "sentences": Samples(texts.sentences, texts.alike),
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one rewrite may take: seconds by the clock and bytes of address space."""

    seconds: int = 600
    memory: int = 8 << 30


@dataclasses.dataclass
class Cell:
    """One file, preset and target.

    Attributes:
        exit: Exit code of the rewrite; -9 and the like where a limit ended it.
        said: The first line of its errors, empty if there is none.
        seconds: By the clock.
        memory: The most it held, MB.
        ratio: Bytes of the source over bytes of the result.
        sqnr_db: Of the worst output, all samples together, against the source in float32; None without a result, or
            where the outputs have other shapes.
        answers: Samples whose answer is the source's, of how many.
        fault: What ONNX Runtime says of a result that it does not load or run.
    """

    exit: int
    said: str
    seconds: float
    memory: float
    ratio: float | None = None
    sqnr_db: float | None = None
    answers: tuple[int, int] | None = None
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
    except Exception as error:  # the runtime's errors share no base but this
        print(f"{model.name} runs without optimizations only: {error}", file=sys.stderr)
        outputs = _run(_session(model, optimize=False), feeds)
    return Source(model, samples, feeds, outputs)


def judge(one: Source, out: Path, preset: str, target: str, limits: Limits) -> Cell:
    """Rewrite and judge."""
    command = [sys.executable, "-m", "bct_onnx", "rewrite", str(one.model), "-o", str(out), "--force"]
    cell = _rewrite([*command, "--preset", preset, "--target", target], limits)
    if cell.exit:
        return cell
    cell.ratio = _size(one.model) / _size(out)
    try:
        outputs = _run(_session(out), one.feeds)
    except Exception as error:  # the runtime's errors share no base but this
        cell.fault = str(error).strip().splitlines()[0][:200]
        return cell
    cell.sqnr_db = _sqnr(one.outputs, outputs)
    answers = [
        one.samples.answer(feeds, before) == one.samples.answer(feeds, after)
        for feeds, before, after in zip(one.feeds, one.outputs, outputs, strict=True)
    ]
    cell.answers = sum(answers), len(answers)
    return cell


def _size(model: Path) -> int:
    """Bytes of a model and of the file of its external data, if there is one."""
    data = model.with_name(model.name + ".data")
    return model.stat().st_size + (data.stat().st_size if data.exists() else 0)


def _rewrite(command: Sequence[str], limits: Limits) -> Cell:
    bounded = f'ulimit -v {limits.memory >> 10}; ulimit -t {limits.seconds}; exec "$@"'
    start = time.perf_counter()
    process = subprocess.Popen(["sh", "-c", bounded, "sh", *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read().decode(errors="replace") if process.stderr is not None else ""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    said = " ".join(errors.split("\n\n")[0].split())
    return Cell(process.returncode, said[:300], time.perf_counter() - start, used.ru_maxrss / 1e3)


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
    signal, noise = np.square(before, dtype=np.float64).sum(), np.square(before.astype(np.float64) - after).sum()
    if not np.isfinite(noise):
        return -math.inf
    return 10 * math.log10(signal / noise) if noise and signal else (math.inf if not noise else -math.inf)
