"""One cell: the files of an export through one preset or tool, run on several shapes and compared with the source."""

from __future__ import annotations

import dataclasses
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bct_onnx.errors import BctError, GateError, InputModelError, UsageError
from bct_onnx.graph.load import load
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.feeds import Feeds, random_feeds, vocabulary
from bct_onnx.runtime.inputs import Input, inputs_of
from bct_onnx.runtime.others import TOOLS, make
from bct_onnx.runtime.parity import compare_outputs
from bct_onnx.runtime.session import run, session
from models.matrix.building import FRAMES

BOUNDS = {"lift": 60.0, "fast": 5.0, "bct-plus": 4.0, "bct": 1.0, "ort-dynamic": 5.0, "ort-nbits4": 5.0}
"""Least SQNR in dB of all outputs of a cell together, by preset or tool."""

HALF = {"lift": 35.0}
"""The same for models of 16 bits: their own rounding comes on top."""

PRESETS = ("lift", "fast", "bct-plus", "bct")
TOOLS_BESIDE = ("ort-dynamic", "ort-nbits4")

SHAPES = ((1, 7, False, 0), (3, 12, True, 0), (2, 3, False, 5))
"""Batch, length, padding and past of the samples; the last one is for models with a cache alone."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of a cell.

    Attributes:
        status: ``pass``, ``refused`` (by the tool itself, nothing was written) or ``failed``.
        sqnr_db: Over all outputs and samples, of the worst file.
        reason: Why it is no pass.
        seconds: Wall time.
    """

    status: str
    sqnr_db: float | None = None
    reason: str = ""
    seconds: float = 0.0


def judge(files: list[Path], how: str, dtype: str) -> Verdict:
    """Put every file of an export through a preset or tool; the verdict is the worst one."""
    start = time.perf_counter()
    verdicts = [_judge(file, how, dtype) for file in files]
    order = {"failed": 0, "refused": 1, "pass": 2}
    worst = min(verdicts, key=lambda one: (order[one.status], np.inf if one.sqnr_db is None else one.sqnr_db))
    return dataclasses.replace(worst, seconds=round(time.perf_counter() - start, 1))


def _judge(file: Path, how: str, dtype: str) -> Verdict:
    bound = (HALF if dtype != "fp32" else {}).get(how, BOUNDS[how])
    with tempfile.TemporaryDirectory() as folder:
        try:
            samples = feeds(file)
            result = _by_tool(file, how, Path(folder), samples) if how in TOOLS else _by_us(file, how, Path(folder))
            if isinstance(result, Verdict):
                return result
            return _compared(file, result, samples, bound)
        except BctError as error:
            return Verdict("failed", reason=f"{file.stem}: {error.what}: {error.why or error.where}"[:300])
        except Exception as error:  # a crash is a result of the matrix, the worst there is
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{file.stem}: {type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
            return Verdict("failed", reason=text[:300])


def _by_us(file: Path, preset: str, folder: Path) -> Path | Verdict:
    made = folder / "model.onnx"
    try:
        rewrite(file, preset, options=Options(output=made, check=False))
    except (GateError, InputModelError, UsageError) as error:
        return Verdict("refused", reason=f"{error.what}: {error.why}"[:300])
    return made


def _by_tool(file: Path, name: str, folder: Path, samples: list[Feeds]) -> Path | Verdict:
    made = make(dataclasses.replace(TOOLS[name], best="first"), file, folder, samples[0])
    return made.path if made.path is not None else Verdict("refused", reason=made.error[:300])


def _compared(file: Path, made: Path, samples: list[Feeds], bound: float) -> Verdict:
    before, after = session(file), session(made)
    names = [value.name for value in before.get_outputs()]
    parity = compare_outputs(
        [_floats(run(before, one)) for one in samples], [_floats(run(after, one)) for one in samples], names=names
    )
    if not parity.finite:
        return Verdict("failed", reason=f"{file.stem}: NaN or infinity where the source has none")
    if parity.sqnr_db < bound:
        return Verdict("failed", parity.sqnr_db, f"{file.stem}: SQNR {parity.sqnr_db:.1f} dB, bound {bound:.0f}")
    return Verdict("pass", min(parity.sqnr_db, 999.0))


def _floats(outputs: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    return [one.astype(np.float32) for one in outputs]


def feeds(file: Path) -> list[Feeds]:
    """Samples for what a file declares: other shapes than the traced ones, padding, and a step with a past."""
    model = load(file)
    declared = inputs_of(model)
    vocab = vocabulary(model)
    has_past = any("past" in one.name for one in declared)
    shapes = [shape for shape in SHAPES if has_past or not shape[-1]]
    return [_one(declared, vocab, seed, *shape) for seed, shape in enumerate(shapes)]


def _one(
    declared: tuple[Input, ...], vocab: Mapping[str, int], seed: int, batch: int, length: int, padded: bool, past: int
) -> Feeds:
    named = [_sized(one, length) for one in declared]
    made = random_feeds(named, batch=batch, sequence=length, seed=seed, vocab=vocab, padding=padded, past=past)
    branch = [name for name in made if "use_cache_branch" in name]
    return made | {name: np.full_like(made[name], past > 0) for name in branch}


def _sized(one: Input, length: int) -> Input:
    """Sound as long as the other inputs: a whole second is long for the tiny convolutions here."""
    is_sound = one.name == "input_values" and len(one.shape) == 2
    return dataclasses.replace(one, shape=(one.shape[0], FRAMES * length)) if is_sound else one
