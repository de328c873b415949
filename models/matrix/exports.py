"""Each family through each exporter, once: files in a folder, or the exporter's error.

ONNX Runtime runs next to nothing of bfloat16 on a CPU. Such an export gets a second one beside it, of the same model
with the same, rounded weights in float32, which is what its rewritten form is compared with.
"""

from __future__ import annotations

import functools
import multiprocessing
import shutil
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnxruntime import InferenceSession

from bct_onnx.errors import InputModelError, TargetError
from bct_onnx.exporting.noise import captured
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.session import run, session
from models.matrix.building import DYNAMIC, build, sample
from models.matrix.families import FAMILIES, Family
from models.matrix.samples import samples_of

TRACED = (2, 14)
"""Batch and length of the inputs that the exporters trace."""

ERROR = "error.txt"
WIDE = "float32"
"""Folder of the float32 forms of bfloat16 files."""


def files(cache: Path, family: str, exporter: str, dtype: str) -> list[Path] | str:
    """The files of one export, made if they are not in the folder ``cache``; or why there are none."""
    folder = cache / family / f"{exporter}-{dtype}"
    if not folder.exists():
        _make(folder, FAMILIES[family], exporter, dtype)
    error = folder / ERROR
    return error.read_text() if error.exists() else sorted(folder.glob("*.onnx"))


def _make(folder: Path, family: Family, exporter: str, dtype: str) -> None:
    draft = folder.with_name(f"{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    error = impossible(family, exporter, dtype)
    try:
        if not error:
            with captured(False):
                EXPORTERS[exporter](family, dtype, draft)
            for file in sorted(draft.glob("*.onnx")):
                _apart(runnable, reference_of(file))
    except TargetError as failed:
        error = f"ONNX Runtime cannot run what it wrote: {failed.why or failed}"
    except InputModelError:
        pass  # what the rewriter refuses to read is no fault of the exporter
    except Exception as failed:  # torch, transformers and optimum raise everything; that is a result here
        lines = [line for line in str(failed).splitlines() if line.strip()]
        error = f"{type(failed).__name__}: {lines[0] if lines else ''}"
    if error:
        (draft / ERROR).write_text(error[:300])
    draft.rename(folder)


def _apart(function: Callable[[Path], object], file: Path) -> None:
    """Call a function in another process: some exports end the one in which ONNX Runtime opens them.

    Raises:
        TargetError: The function does, or the process has ended.
    """
    try:
        _process().submit(function, file).result()
    except BrokenExecutor as error:
        _process.cache_clear()
        raise TargetError("ONNX Runtime ended the process", where=str(file), why="it crashes on this file") from error


@functools.lru_cache(maxsize=1)
def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def reference_of(file: Path) -> Path:
    """What to compare with: the file itself, or its float32 form."""
    wide = file.parent / WIDE / file.name
    return wide if wide.exists() else file


def runnable(file: Path) -> list[Feeds]:
    """The samples that a file runs on: all, or all with a single text where it takes no more.

    Raises:
        TargetError: ONNX Runtime cannot, on the shapes that were not traced perhaps.
    """
    samples = samples_of(file)  # what the rewriter refuses to read is refused first
    opened = session(file)
    try:
        return _run(opened, samples)
    except TargetError:
        return _run(opened, samples_of(file, texts=1))


def _run(opened: InferenceSession, samples: list[Feeds]) -> list[Feeds]:
    for one in samples:
        run(opened, one)
    return samples


def impossible(family: Family, exporter: str, dtype: str) -> str:
    """Why there is no such export; empty where there may be one."""
    if exporter == "optimum-cache" and not family.caches:
        return NOTHING_TO_CACHE
    if exporter.startswith("optimum") and dtype != "fp32":
        return ON_GPU
    return DYNAMO_ALONE if dtype == "bf16" and not exporter.startswith("dynamo") else ""


NOTHING_TO_CACHE = "no decoder"
ON_GPU = "optimum exports half precision on a GPU only"
DYNAMO_ALONE = "bfloat16 through dynamo only"
NOT_ASKED = (NOTHING_TO_CACHE, ON_GPU, DYNAMO_ALONE)
"""Exports that are not tried."""


def _optimum(family: Family, dtype: str, folder: Path, cache: bool = False) -> None:
    from optimum.exporters.onnx import onnx_export_from_model

    model = build(family, dtype)
    made = folder / "made"
    task = family.task + ("-with-past" if cache else "")
    onnx_export_from_model(model, output=made, task=task, monolith=not cache, do_validation=False)
    for file in made.glob("*.onnx"):
        _fix_sizes(file, family, model)
        file.rename(folder / file.name)
    shutil.rmtree(made)


def _fix_sizes(file: Path, family: Family, model: Any) -> None:
    """Say in the file how large images and spectra are: the model takes no others, whatever the exporter writes."""
    shapes = {name: tuple(value.shape) for name, value in sample(family, model, *TRACED).items()}
    graph = ir.load(file)
    for value in graph.graph.inputs:
        if value.name in ("pixel_values", "input_features") and value.shape is not None:
            value.shape = ir.Shape([value.shape[0], *shapes[value.name][1:]])
    ir.save(graph, file)


def _dynamo(family: Family, dtype: str, folder: Path, opset: int) -> None:
    import torch

    def save(dtype: str, path: Path) -> None:
        program = torch.onnx.export(_captured(family.model, dtype), dynamo=True, opset_version=opset, verbose=False)
        assert program is not None
        program.save(path)

    save(dtype, folder / "model.onnx")
    if dtype == "bf16":
        (folder / WIDE).mkdir()
        save("bf16 as fp32", folder / WIDE / "model.onnx")


@functools.lru_cache(maxsize=1)
def _captured(name: str, dtype: str) -> Any:
    """What torch.export makes of the family whose model has this name: every opset starts from it."""
    import torch

    family = next(one for one in FAMILIES.values() if one.model == name)
    model = build(family, dtype)
    inputs = sample(family, model, *TRACED)
    dims = {axis: torch.export.Dim.DYNAMIC for names in DYNAMIC.values() for axis in names}
    shapes = {name: {at: dims[axis] for at, axis in enumerate(DYNAMIC[name])} for name in inputs}
    return torch.export.export(model, (), inputs, dynamic_shapes=shapes, strict=False)


def _legacy(family: Family, dtype: str, folder: Path) -> None:
    import torch

    model = build(family, dtype, attn_implementation="eager")
    inputs = sample(family, model, *TRACED)
    torch.onnx.export(
        model,
        kwargs=inputs,
        f=folder / "model.onnx",
        dynamo=False,
        opset_version=17,
        input_names=list(inputs),
        dynamic_axes={name: dict(enumerate(DYNAMIC[name])) for name in inputs},
    )


EXPORTERS: dict[str, Callable[[Family, str, Path], None]] = {
    "optimum": _optimum,
    "optimum-cache": lambda family, dtype, folder: _optimum(family, dtype, folder, cache=True),
    "dynamo-18": lambda family, dtype, folder: _dynamo(family, dtype, folder, 18),
    "dynamo-23": lambda family, dtype, folder: _dynamo(family, dtype, folder, 23),
    "legacy": _legacy,
}
"""Each writes ``.onnx`` files of a family in a type to a folder."""
