"""From a trained checkpoint to one ONNX file that has been checked: what comes before a rewrite.

Everything here needs the extra ``bct-onnx[export]`` (torch, transformers, optimum-onnx), imported when it is used. The
rewriter itself needs none of it: it takes any ONNX file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import onnx_ir as ir

from bct_onnx.errors import UsageError
from bct_onnx.exporting import exporters
from bct_onnx.exporting.check import compared
from bct_onnx.exporting.checkpoint import WITH_ENCODER, read
from bct_onnx.exporting.noise import captured, explained
from bct_onnx.exporting.parts import export_parts
from bct_onnx.exporting.recipe import CHOICES, Recipe
from bct_onnx.exporting.tidy import tidy
from bct_onnx.graph.atomic import TemporaryFolder
from bct_onnx.graph.known import dims_of
from bct_onnx.graph.load import load, nbytes_of
from bct_onnx.graph.save import check_writable, save

__all__ = ["CHOICES", "Exported", "Recipe", "export", "export_parts"]

Named = tuple[str, tuple[int | str, ...]]
"""Name and shape of an input or output; a dynamic dimension is its name."""


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
        GateError: The exported model computes something else than PyTorch (`check.TOLERANCE`).
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
        with explained("this checkpoint cannot be loaded", model, noise, fix="check that it is complete"):
            source = read(model, recipe.task, attention=recipe.attention, dtype=recipe.dtype)
        if recipe.cache and source.task in WITH_ENCODER:
            fix = f"bct-onnx rewrite {model} -o FOLDER --preset lift writes its parts, without --preset compressed"
            raise UsageError("an encoder with a decoder that has a cache is more than one file", fix=fix)
        name, reason = exporters.choose(source, recipe)
        draft = folder / "model.onnx"
        fix = "try another --exporter or --attention; --verbose shows all that the exporter prints"
        with explained(f"the {name} exporter failed on this checkpoint", model, noise, fix=fix):
            exporters.EXPORTERS[name](source, recipe, draft)
        difference = compared(draft, source, recipe)
        graph = load(draft)
        tidy(graph, source)
        written = save(graph, output, force=force)
    files = tuple(output.with_name(file.name) for file in written)
    nbytes = nbytes_of(files)
    inputs, outputs = _named(graph.graph.inputs), _named(graph.graph.outputs)
    return Exported(files, name, reason, source.task, graph.opset_imports[""], inputs, outputs, difference, nbytes)


def _named(values: Iterable[ir.Value]) -> tuple[Named, ...]:
    named: list[Named] = []
    for value in values:
        dims = dims_of(value.shape or ir.Shape(()))
        named.append((str(value.name), tuple("None" if dim is None else dim for dim in dims)))
    return tuple(named)
