"""From a trained checkpoint to one ONNX file that has been checked: what comes before a rewrite.

Everything here needs the extra ``bct-onnx[export]`` (torch, transformers, optimum-onnx), imported when it is used. The
rewriter itself needs none of it: it takes any ONNX file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bct_onnx.errors import BctError, GateError, InputModelError, OutputError, UsageError
from bct_onnx.exporting import exporters
from bct_onnx.exporting.check import largest_difference
from bct_onnx.exporting.checkpoint import TASKS, Checkpoint, read
from bct_onnx.exporting.noise import captured
from bct_onnx.exporting.single_file import data_file, move, tidy

CHOICES = {
    "exporter": ("auto", *exporters.EXPORTERS),
    "task": ("auto", *TASKS),
    "attention": ("default", "sdpa", "eager"),
    "dtype": ("fp32", "fp16"),
}
"""The values that the fields of a `Recipe` can have."""

TOLERANCE = {"fp32": 1e-3, "fp16": 5e-2}
"""Largest difference to PyTorch that passes, times the largest absolute output where that is above 1."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to export. The defaults suit a rewrite.

    Attributes:
        exporter: ``optimum`` (TorchScript, the most architectures), ``dynamo`` or ``legacy`` (torch.onnx.export with
            and without dynamo); ``auto`` is ``optimum``, or ``dynamo`` where optimum cannot.
        task: A key of `TASKS`; ``auto`` reads it from the checkpoint's architecture.
        opset: ONNX operator set; None leaves it to the exporter.
        attention: Implementation inside transformers, which decides the shape of the exported graph.
        dtype: Type of the weights, whatever type the checkpoint stores.
        cache: Decoders only: past keys and values as inputs and outputs.
    """

    exporter: str = "auto"
    task: str = "auto"
    opset: int | None = None
    attention: str = "default"
    dtype: str = "fp32"
    cache: bool = False

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(f"unknown {name} {getattr(self, name)!r}", fix=f"one of: {', '.join(choices)}")


@dataclasses.dataclass(frozen=True)
class Exported:
    """What `export` wrote.

    Attributes:
        files: The model, and its external data where the model is above 2 GB.
        exporter: The exporter that made it.
        reason: Why ``auto`` did not take optimum; empty where it did.
        task: The task it was exported for.
        opset: Version of the default operator set.
        inputs: Names and shapes, in order.
        outputs: Names and shapes, in order.
        difference: Largest absolute difference to PyTorch over the checked samples and outputs.
        nbytes: Bytes of all files.
    """

    files: tuple[Path, ...]
    exporter: str
    reason: str
    task: str
    opset: int
    inputs: tuple[tuple[str, tuple[int | str, ...]], ...]
    outputs: tuple[tuple[str, tuple[int | str, ...]], ...]
    difference: float
    nbytes: int


def export(
    model: str | Path, output: Path, recipe: Recipe | None = None, *, force: bool = False, verbose: bool = False
) -> Exported:
    """Export a Hugging Face checkpoint to one ONNX file, and compare that with PyTorch before it appears.

    Args:
        model: Folder with config.json and weights, or an id on the Hugging Face hub.
        output: The file to write. Above 2 GB the weights go to ``<output>.data`` beside it.
        recipe: How; the default `Recipe` when None.
        force: Replace ``output`` where it exists.
        verbose: Let the exporters print; otherwise their output appears only in the error of a failed export.

    Raises:
        UsageError: The recipe does not fit the model, the extra is missing, or ``output`` exists.
        InputModelError: The checkpoint is missing or unusable, or its exporter failed.
        GateError: The exported model computes something else than PyTorch (`TOLERANCE`).
        OutputError: The file could not be written.
    """
    recipe = recipe or Recipe()
    exporters.require("torch", "transformers")
    _refuse_to_overwrite(output, force)
    with _working_folder(output) as folder, captured(verbose) as noise:
        with _explained("cannot load this checkpoint", str(model), noise.text):
            source = read(model, recipe.task, attention=recipe.attention, dtype=recipe.dtype)
        name, reason = exporters.choose(source, recipe)
        draft = folder / output.name
        with _explained(f"the {name} exporter failed on this checkpoint", str(model), noise.text):
            exporters.EXPORTERS[name](source, recipe, draft)
        opset, inputs, outputs = tidy(draft)
        difference = _checked(draft, source, recipe)
        files = move(draft, output)
    nbytes = sum(file.stat().st_size for file in files)
    return Exported(files, name, reason, source.task, opset, inputs, outputs, difference, nbytes)


def _refuse_to_overwrite(output: Path, force: bool) -> None:
    if output.is_dir():
        raise UsageError("the output is a folder", where=str(output), fix="name a file, for example model.onnx in it")
    for file in (output, data_file(output)):
        if file.exists() and not force:
            raise UsageError("the output exists", where=str(file), fix="give another name, or --force to replace it")


@contextlib.contextmanager
def _working_folder(output: Path) -> Iterator[Path]:
    """A folder on the file system of the output, so that moving the result there cannot fail half-way."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    except OSError as error:
        raise OutputError("cannot write here", where=str(output.parent), why=str(error)) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _explained(what: str, where: str, noise: Any) -> Iterator[None]:
    """Whatever a foreign library raises becomes an `InputModelError` with the end of what it printed."""
    try:
        yield
    except BctError:
        raise
    except Exception as error:  # torch, transformers and optimum raise everything; the cause stays attached
        said = "\n".join([*noise().splitlines()[-20:], f"{type(error).__name__}: {error}"])
        fix = "try another --exporter or --attention; --verbose shows all that the exporter prints"
        raise InputModelError(what, where=where, why=said, fix=fix) from error


def _checked(draft: Path, source: Checkpoint, recipe: Recipe) -> float:
    difference, peak = largest_difference(draft, source)
    allowed = TOLERANCE[recipe.dtype] * max(1.0, peak)
    if not difference <= allowed:
        raise GateError(
            "the exported model does not compute what PyTorch computes",
            where=f"largest difference {difference:.3g}, allowed {allowed:.3g}",
            fix="try another --exporter or --attention",
        )
    return difference
