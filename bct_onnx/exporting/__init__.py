"""From a trained checkpoint to one ONNX file that has been checked: what comes before a rewrite.

Everything here needs the extra ``bct-onnx[export]`` (torch, transformers, optimum-onnx), imported when it is used. The
rewriter itself needs none of it: it takes any ONNX file.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import onnx_ir as ir

from bct_onnx.errors import BctError, GateError, InputModelError, UsageError
from bct_onnx.exporting import exporters
from bct_onnx.exporting.check import largest_difference
from bct_onnx.exporting.checkpoint import TASKS, Checkpoint, read
from bct_onnx.exporting.noise import captured
from bct_onnx.exporting.tidy import tidy
from bct_onnx.graph.atomic import TemporaryFolder
from bct_onnx.graph.known import dims_of
from bct_onnx.graph.load import load, nbytes_of
from bct_onnx.graph.save import check_writable, save

CHOICES = {
    "exporter": ("auto", *exporters.EXPORTERS),
    "task": ("auto", *TASKS),
    "attention": ("default", "sdpa", "eager"),
    "dtype": ("fp32", "fp16"),
}
"""The values that the fields of a `Recipe` can have."""

TOLERANCE = {"fp32": 1e-3, "fp16": 5e-2}
"""Largest difference to PyTorch that passes, times the largest absolute output where that is above 1."""


Named = tuple[str, tuple[int | str, ...]]
"""Name and shape of an input or output; a dynamic dimension is its name."""


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
        files: The model, and its data file where the weights are above 1 GiB.
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
    inputs: tuple[Named, ...]
    outputs: tuple[Named, ...]
    difference: float
    nbytes: int


def export(
    model: str | Path, output: Path, recipe: Recipe | None = None, *, force: bool = False, verbose: bool = False
) -> Exported:
    """Export a Hugging Face checkpoint to one ONNX file, and compare that with PyTorch before it appears.

    Args:
        model: Folder with config.json and weights, or an id on the Hugging Face hub.
        output: The file to write. Weights above 1 GiB go to a data file beside it.
        recipe: How; the default `Recipe` when None.
        force: Replace ``output`` where it exists.
        verbose: Let the exporters print; otherwise their output appears only in the error of a failed export.

    Raises:
        UsageError: The recipe does not fit the model, the extra is missing, or ``output`` exists or cannot be written.
        InputModelError: The checkpoint is missing or unusable, or its exporter failed.
        GateError: The exported model computes something else than PyTorch (`TOLERANCE`).
        TargetError: ONNX Runtime cannot run the exported model.
        OutputError: The file could not be written.
    """
    recipe = recipe or Recipe()
    exporters.require("torch", "transformers")
    check_writable(output, force=force)
    with (
        TemporaryFolder(output.absolute().parent, "export") as folder,
        captured(verbose) as noise,
    ):
        with _explained("this checkpoint cannot be loaded", model, noise.text, fix="check that it is complete"):
            source = read(model, recipe.task, attention=recipe.attention, dtype=recipe.dtype)
        name, reason = exporters.choose(source, recipe)
        draft = folder / "model.onnx"
        fix = "try another --exporter or --attention; --verbose shows all that the exporter prints"
        with _explained(f"the {name} exporter failed on this checkpoint", model, noise.text, fix=fix):
            exporters.EXPORTERS[name](source, recipe, draft)
        difference = _checked(draft, source, recipe)
        graph = load(draft)
        tidy(graph, source)
        written = save(graph, output, force=force)
    files = tuple(output.with_name(file.name) for file in written)
    nbytes = nbytes_of(files)
    inputs, outputs = _named(graph.graph.inputs), _named(graph.graph.outputs)
    return Exported(files, name, reason, source.task, graph.opset_imports[""], inputs, outputs, difference, nbytes)


@contextlib.contextmanager
def _explained(problem: str, model: str | Path, noise: Callable[[], str], *, fix: str) -> Iterator[None]:
    """Whatever a foreign library raises becomes an `InputModelError` with the end of what it printed."""
    try:
        yield
    except BctError:
        raise
    except Exception as error:  # torch, transformers and optimum raise everything; the cause stays attached
        printed = noise().splitlines()[-20:]
        message = "\n    ".join([f"{type(error).__name__}: {error}", *(["it printed:"] if printed else []), *printed])
        raise InputModelError(problem, where=str(model), why=message, fix=fix) from error


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


def _named(values: Iterable[ir.Value]) -> tuple[Named, ...]:
    named: list[Named] = []
    for value in values:
        dims = dims_of(value.shape or ir.Shape(()))
        named.append((str(value.name), tuple("None" if dim is None else dim for dim in dims)))
    return tuple(named)
