"""The three exporters, and which one to take."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from bct_onnx.errors import UsageError
from bct_onnx.exporting.checkpoint import AXES, TRACED, WITH_ENCODER, Checkpoint

if TYPE_CHECKING:
    from bct_onnx.exporting.recipe import Recipe

TORCHSCRIPT_OPSETS = range(11, 21)
"""What the TorchScript exporter of PyTorch can write."""


def require(*modules: str) -> None:
    """Refuse to go on without the modules of the export extra.

    Raises:
        UsageError: One is not installed.
    """
    absent = [module for module in modules if importlib.util.find_spec(module) is None]
    if absent:
        raise UsageError(
            "exporting needs packages that are not installed",
            where=", ".join(absent),
            fix="pip install 'bct-onnx[export]'",
        )


def choose(source: Checkpoint, recipe: Recipe) -> tuple[str, str]:
    """The exporter to use, and the reason where ``auto`` passes optimum over.

    Raises:
        UsageError: The named exporter cannot do what the recipe asks.
    """
    reasons = {name: refusal(source, recipe) for name, refusal in _REFUSALS.items()}
    if recipe.exporter != "auto":
        if reasons[recipe.exporter]:
            able = [name for name, reason in reasons.items() if not reason]
            fix = f"--exporter {able[0]} can" if able else ""
            raise UsageError(f"the {recipe.exporter} exporter cannot do this", why=reasons[recipe.exporter], fix=fix)
        return recipe.exporter, ""
    for name in ("optimum", "dynamo"):
        if not reasons[name]:
            return name, reasons["optimum"]
    raise UsageError("no exporter can do this", why="; ".join(dict.fromkeys(reasons.values())))


def _optimum_refuses(source: Checkpoint, recipe: Recipe) -> str:
    if importlib.util.find_spec("optimum") is None or importlib.util.find_spec("optimum.exporters.onnx") is None:
        return "optimum-onnx is not installed"
    try:
        importlib.import_module(
            "optimum.exporters.onnx.model_configs"
        )  # importing it is what fills the table of recipes
    except ImportError:
        import transformers

        return f"the installed optimum-onnx does not go with transformers {transformers.__version__}"
    if recipe.dtype == "fp16":
        return "optimum writes fp16 on a GPU only"
    if recipe.cache and not source.decodes:
        return f"a cache needs a decoder, and this is exported for {source.task}"
    return _torchscript_opset(recipe) or _no_recipe(source, recipe)


def _no_recipe(source: Checkpoint, recipe: Recipe) -> str:
    from optimum.exporters.tasks import TasksManager

    family = source.model.config.model_type
    task = source.task + ("-with-past" if recipe.cache else "")
    try:
        tasks = TasksManager.get_supported_tasks_for_model_type(family, "onnx", library_name="transformers")
    except KeyError:
        return f"optimum has no recipe for the architecture {family!r}"
    if task in tasks:
        return ""
    return f"optimum has no recipe for {task} with {family!r}"


def _legacy_refuses(source: Checkpoint, recipe: Recipe) -> str:
    if source.task == "text-generation":
        return "TorchScript cannot trace the causal masks of transformers by itself; optimum replaces them"
    return _torchscript_opset(recipe) or _torch_refuses(source, recipe)


def _torchscript_opset(recipe: Recipe) -> str:
    if recipe.opset is None or recipe.opset in TORCHSCRIPT_OPSETS:
        return ""
    return f"TorchScript writes opset {TORCHSCRIPT_OPSETS.start} to {TORCHSCRIPT_OPSETS.stop - 1}"


def _torch_refuses(source: Checkpoint, recipe: Recipe) -> str:
    if recipe.cache:
        return "only optimum exports a cache of keys and values"
    if source.task in WITH_ENCODER:
        return "only optimum exports encoder-decoder models"
    return ""


def with_optimum(source: Checkpoint, recipe: Recipe, folder: Path) -> None:
    """Let optimum write what it makes of a checkpoint into a folder: with a cache, an encoder-decoder in parts."""
    from optimum.exporters.onnx import onnx_export_from_model

    onnx_export_from_model(
        source.model,
        output=folder,
        task=source.task + ("-with-past" if recipe.cache else ""),
        opset=recipe.opset,
        monolith=not recipe.cache,  # one file also for an encoder with its decoder
        do_validation=False,
    )


def _one_file(source: Checkpoint, recipe: Recipe, draft: Path) -> None:
    folder = draft.parent / "optimum"
    with_optimum(source, recipe, folder)
    for file in folder.iterdir():  # the model keeps its neighbours: external data are found by their names
        file.rename(draft if file.suffix == ".onnx" else draft.parent / file.name)


def _with_dynamo(source: Checkpoint, recipe: Recipe, draft: Path) -> None:
    import torch

    inputs = source.sample(*TRACED)
    program = torch.onnx.export(
        source.model,
        kwargs=inputs,
        dynamo=True,
        opset_version=recipe.opset,
        output_names=list(source.run(inputs)),
        dynamic_shapes=_axes(inputs),
    )
    program.save(draft)


def _axes(inputs: Iterable[str]) -> dict[str, dict[int, str]]:
    """What the free axes of each input are called."""
    return {name: dict(enumerate(AXES)) for name in inputs}


def _with_legacy(source: Checkpoint, recipe: Recipe, draft: Path) -> None:
    import torch

    inputs = source.sample(*TRACED)
    outputs = source.run(inputs)
    axes = _axes(inputs)
    for name, value in outputs.items():
        axes[name] = {axis: AXES[axis] for axis in range(2) if value.shape[axis] == TRACED[axis]}
    torch.onnx.export(
        source.model,
        kwargs=inputs,
        f=draft,
        dynamo=False,
        opset_version=recipe.opset,
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_axes=axes,
    )


EXPORTERS: dict[str, Callable[[Checkpoint, Recipe, Path], None]]
EXPORTERS = {"optimum": _one_file, "dynamo": _with_dynamo, "legacy": _with_legacy}
"""Each writes the model of a checkpoint to a file, with whatever else it makes beside that file."""

_REFUSALS = {"optimum": _optimum_refuses, "dynamo": _torch_refuses, "legacy": _legacy_refuses}
