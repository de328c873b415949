"""A model folder rewritten: every model in it, everything else copied, whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import onnx

from bct_onnx.errors import UsageError
from bct_onnx.folders import genai
from bct_onnx.folders.card import card
from bct_onnx.folders.checkpoint import exported
from bct_onnx.folders.layouts import CODES, FEW_BITS, FLOATS, LAYOUTS, Layout, dtype_of
from bct_onnx.folders.reading import CARD, RECORD, ModelFolder, read
from bct_onnx.graph import protobuf
from bct_onnx.graph.atomic import TemporaryFolder
from bct_onnx.report import Report

Rewrite = Callable[[Path, Path], Report]
"""Rewrites a model file into another."""

NARROWEST_FLOAT = 16
"""Bits of weights that are not quantized."""


@dataclasses.dataclass(frozen=True)
class Rewritten:
    """What `rewrite_folder` wrote.

    Attributes:
        folder: The folder.
        layout: Its layout's name.
        reports: What was done to each model, by its path below the folder.
        copied: Files that are as they were in the source.
        left: Files of the source that are not there, and why.
        notes: What a reader should know: what a client would pick instead, what it has to be told.
    """

    folder: Path
    layout: str
    reports: dict[Path, Report]
    copied: tuple[Path, ...]
    left: dict[Path, str]
    notes: tuple[str, ...]


def rewrite_folder(
    source: ModelFolder | Path, output: Path, rewrite: Rewrite, *, layout: str = "", force: bool = False
) -> Rewritten:
    """Write a folder that a client loads as it is.

    Args:
        source: The folder to read.
        output: The folder to make; it appears when everything in it is written.
        rewrite: Rewrites one model: ``rewrite(file, result)``.
        layout: Name of the layout; the source's own where empty.
        force: Replace a folder at ``output`` that this function wrote.

    Raises:
        UsageError: ``output`` exists, or the layout is unknown or unfit for the models.
        InputModelError: The source has no model, or a model cannot be used.
        BctError: As ``rewrite`` does; nothing is written then.
    """
    original = source if isinstance(source, ModelFolder) else read(source)
    chosen = _layout(layout or original.layout)
    output = output.absolute()
    check_writable(output, original.root, force=force)
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryFolder(output.parent, "folder") as temporary:
        draft = temporary / output.name
        draft.mkdir()
        if original.is_checkpoint:
            inner = temporary / "export"  # who publishes in the temporary folder itself waits for its lock: ours
            inner.mkdir()
            original = exported(original, inner)
        for path in original.files:
            _copy(original.root / path, draft / path)
        (draft / chosen.subfolder).mkdir(exist_ok=True)
        drafts: dict[str, Report] = {}
        for model in original.models:
            drafts[model.name] = rewrite(original.root / model, draft / chosen.subfolder / model.name)
        variant = _variant(drafts.values())
        reports: dict[Path, Report] = {}
        for name, report in drafts.items():
            place = Path(chosen.place(name, variant))
            files = _move(report.files, draft / place, chosen)
            reports[place] = dataclasses.replace(report, files=tuple(output / place.parent / file for file in files))
        notes = _configure(original, chosen, draft, list(reports), variant)
        _write_records(original, chosen, draft, reports, notes, variant)
        _publish(draft, output, temporary)
    return Rewritten(output, chosen.name, reports, original.files, original.left, tuple(notes))


def check_writable(output: Path, source: Path, *, force: bool) -> None:
    """Refuse an output folder that may not be written.

    Raises:
        UsageError: It exists and was not written by `rewrite_folder`, or without ``force``; or it is the source.
    """
    if output.resolve() == source.resolve() or source.resolve() in output.resolve().parents:
        raise UsageError(
            "the output is the input's folder, or inside of it",
            where=str(output),
            why="inputs are never modified",
            fix="choose another folder",
        )
    if not output.exists():
        return
    if not output.is_dir():
        raise UsageError(
            "the output is a file", where=str(output), fix="a folder becomes a folder: choose another name"
        )
    if not any(output.iterdir()):
        return
    if not (output / RECORD).is_file():
        why = f"it holds files and no {RECORD}, so it was not written by this command"
        raise UsageError("the output folder is not empty", where=str(output), why=why, fix="choose another folder")
    if not force:
        raise UsageError("the output exists", where=str(output), fix="choose another name, or replace it with --force")


def _layout(name: str) -> Layout:
    if name not in LAYOUTS:
        raise UsageError(f"unknown layout '{name}'", fix="one of: " + ", ".join(LAYOUTS))
    return LAYOUTS[name]


def _variant(reports: Iterable[Report]) -> str:
    """What results are called where names tell: by their products of codes, or by their bits."""
    if any(report.products is not None and report.products.said for report in reports):
        return CODES
    compressed = any(report.after.bits_per_weight < NARROWEST_FLOAT for report in reports)
    return FEW_BITS if compressed else FLOATS


def _copy(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, place)  # what a link in a cache points to, and not the link


def _move(files: tuple[Path, ...], place: Path, layout: Layout) -> list[str]:
    """Give a model its name, and its external data the name by which the client looks for them; these names."""
    model, *data = files
    names = [place.name]
    if data:
        name = layout.data_name.format(name=place.name)
        proto = onnx.load(model, load_external_data=False)
        for tensor in protobuf.tensors(proto):
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = name
        onnx.save(proto, model)
        data[0].rename(place.with_name(name))
        names.append(name)
    model.rename(place)
    return names


def _configure(original: ModelFolder, layout: Layout, draft: Path, models: list[Path], variant: str) -> list[str]:
    """Write what the client needs besides the models; what a reader should know."""
    notes = []
    if layout.name == "genai":
        config = draft / genai.CONFIG
        first = draft / models[0]
        if config.is_file():
            config.write_text(genai.with_file_name(config.read_text(encoding="utf-8"), first.name), encoding="utf-8")
        else:
            config.write_text(genai.config_of(first, original.config), encoding="utf-8")
    if layout.name == "sentence-transformers" and not (draft / "modules.json").is_file():
        raise UsageError(
            "the folder cannot be written for sentence-transformers",
            where=str(original.root),
            why="it has no modules.json, so nothing says how vectors are made of token embeddings",
            fix="start from the folder that sentence-transformers saved, or use another --layout",
        )
    others = sorted({path.suffix for path, why in original.left.items() if "framework" in why})
    if others:
        notes.append(f"weights for other frameworks ({', '.join(others)}) were left out: load it as shown here")
    if layout.suffixed and variant:
        notes.append(f"the client has to be told which file to load: dtype '{dtype_of(variant)}', as shown here")
    return notes


def _write_records(
    original: ModelFolder,
    layout: Layout,
    draft: Path,
    reports: dict[Path, Report],
    notes: list[str],
    variant: str,
) -> None:
    old_card = original.root / CARD
    text = old_card.read_text(encoding="utf-8", errors="replace") if old_card.is_file() else ""
    (draft / CARD).write_text(
        card(draft.name, original.root, layout, variant, original.config, reports, notes, text), encoding="utf-8"
    )
    record = {"layout": layout.name, "models": {str(path): report.as_dict() for path, report in reports.items()}}
    (draft / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _publish(draft: Path, output: Path, temporary: Path) -> None:
    """Give the finished folder its place; what was there before goes with the temporary folder."""
    if output.exists():
        output.rename(temporary / "replaced")
    draft.rename(output)
