"""One cell: the files of an export through one preset or tool, run on several shapes and compared with the source."""

from __future__ import annotations

import dataclasses
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from bct_onnx.errors import BctError, GateError, InputModelError, UsageError
from bct_onnx.recipe import choose
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.parity import compare_outputs
from bct_onnx.runtime.session import run, session
from bct_onnx.study.peers import TOOLS, make
from models.matrix.exports import reference_of, runnable

BOUNDS = {"lift": 60.0, "fast": 5.0, "bct-plus": 4.0, "bct": 1.0, "ort-dynamic": 5.0, "ort-nbits4": 5.0}
"""Least SQNR in dB of all outputs of a cell together, by preset or tool."""

HALF = {"lift": 35.0}
"""The same for models of 16 bits: their own rounding comes on top."""


def bound(how: str, dtype: str) -> float:
    """That of a preset or tool for a type."""
    return (HALF if dtype != "fp32" else {}).get(how, BOUNDS[how])


PRESETS = ("lift", "fast", "bct-plus", "bct")
TOOLS_BESIDE = ("ort-dynamic", "ort-nbits4")


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


RECIPES = Path(__file__).parents[1] / "recipes"
"""What presets do otherwise for some families, ``FAMILY.toml``."""


def recipe_of(family: str) -> Path | None:
    """The recipe of a family, if it needs one."""
    path = RECIPES / f"{family}.toml"
    return path if path.exists() else None


def judge(files: list[Path], how: str, dtype: str, recipe: Path | None = None) -> Verdict:
    """Put every file of an export through a preset, with a recipe, or a tool; the verdict is the worst one."""
    start = time.perf_counter()
    verdicts = [_judge(file, how, dtype, recipe) for file in files]
    order = {"failed": 0, "refused": 1, "pass": 2}
    worst = min(verdicts, key=lambda one: (order[one.status], np.inf if one.sqnr_db is None else one.sqnr_db))
    return dataclasses.replace(worst, seconds=round(time.perf_counter() - start, 1))


def _judge(file: Path, how: str, dtype: str, recipe: Path | None) -> Verdict:
    with tempfile.TemporaryDirectory() as folder:
        try:
            reference = reference_of(file)
            samples = runnable(reference)
            if how in TOOLS:
                result = _by_tool(file, how, Path(folder), samples)
            else:
                result = _by_us(file, how, Path(folder), None if how == "lift" else recipe)
            if isinstance(result, Verdict):
                return result
            return compared(reference, result, samples, bound(how, dtype))
        except InputModelError as error:
            return Verdict("refused", reason=f"{error.what}: {error.why or error.where}"[:300])
        except BctError as error:
            return Verdict("failed", reason=f"{file.stem}: {error.what}: {error.why or error.where}"[:300])
        except Exception as error:  # a crash is a result of the matrix, the worst there is
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{file.stem}: {type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
            return Verdict("failed", reason=text[:300])


def _by_us(file: Path, preset: str, folder: Path, recipe: Path | None) -> Path | Verdict:
    made = folder / "model.onnx"
    try:
        pipeline, _ = choose(preset=preset, recipe=recipe)
        rewrite(file, pipeline, options=Options(output=made, check=False))
    except (GateError, InputModelError, UsageError) as error:
        return Verdict("refused", reason=f"{error.what}: {error.why}"[:300])
    return made


def _by_tool(file: Path, name: str, folder: Path, samples: list[Feeds]) -> Path | Verdict:
    made = make(dataclasses.replace(TOOLS[name], best="first"), file, folder, samples[0])
    return made.file if made.file is not None else Verdict("refused", reason=made.error[:300])


def compared(file: Path, made: Path, samples: list[Feeds], least: float) -> Verdict:
    """The outputs of two files on the same samples; all outputs count together."""
    before, after = session(file), session(made)
    names = [value.name for value in before.get_outputs()]
    parity = compare_outputs(
        [_floats(run(before, one)) for one in samples], [_floats(run(after, one)) for one in samples], names=names
    )
    if not parity.finite:
        return Verdict("failed", reason=f"{file.stem}: NaN or infinity where the source has none")
    if parity.sqnr_db < least:
        return Verdict("failed", parity.sqnr_db, f"{file.stem}: SQNR {parity.sqnr_db:.1f} dB, bound {least:.0f}")
    return Verdict("pass", min(parity.sqnr_db, 999.0))


def _floats(outputs: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    return [one.astype(np.float32) for one in outputs]
