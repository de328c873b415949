"""``bct-onnx rewrite FOLDER``: every model of a folder, for the client that loads it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bct_onnx.cli.rewrite import Writing
    from bct_onnx.cli.sizing import SizeGoal
    from bct_onnx.folders import Rewritten
    from bct_onnx.pipeline import Pipeline
    from bct_onnx.report import Report
    from bct_onnx.rewriting import Options


def refuse(folder: Path, writing: Writing, goal: SizeGoal) -> None:
    """Refuse what is for single models.

    Raises:
        UsageError: An option that names one file, or works on one model.
    """
    from bct_onnx.errors import UsageError

    options = {
        "--dry-run": writing.dry_run,
        "--keep-passes": writing.keep_passes is not None,
        "--report": writing.page is not None,
        "--plan": goal.plan is not None,
        "--max-drop": goal.max_drop is not None,
        "--target-sqnr": goal.target_sqnr is not None,
        "--resume": goal.resume,
    }
    for option, is_set in options.items():
        if is_set:
            fix = "name the .onnx file in it, or leave the option out"
            raise UsageError(f"{option} is for one model", where=str(folder), fix=fix)


def fitted(pipeline: Pipeline, model: Path, writing: Writing, target: str, *, is_own: bool) -> Pipeline:
    """A preset's pipeline for a folder's client: without padding where the client reads no token that is hidden."""
    if is_own or not model.is_dir():
        return pipeline
    from bct_onnx import registry
    from bct_onnx.folders.reading import read
    from bct_onnx.pipeline import find
    from bct_onnx.recipe import without_padding

    source = read(model)
    packs = find(registry.lowering(target), "remove-padding") is not None
    if packs and source.pools_by_mask and (writing.layout or source.layout) == "sentence-transformers":
        return without_padding(pipeline)
    return pipeline


def rewrite_models(folder: Path, writing: Writing, how: Options, run: Callable[..., Report]) -> Rewritten:
    """Rewrite a folder; ``run(file, options=...)`` rewrites one model of it."""
    from bct_onnx.folders import rewrite_folder

    def rewrite_one(source: Path, output: Path) -> Report:
        return run(source, options=dataclasses.replace(how, output=output))

    assert writing.output is not None  # refused before
    return rewrite_folder(folder, writing.output, rewrite_one, layout=writing.layout or "", force=writing.force)


def show(done: Rewritten, source: Path, how: Options, *, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Print the report of every model, then what the folder is for."""
    from bct_onnx.cli.tables.report import print_report

    if as_json:
        print(json.dumps(_as_dict(done), indent=2))
        return
    if quiet:
        return
    for place, report in done.reports.items():
        print_report(report, source, dataclasses.replace(how, output=done.folder / place), verbose=verbose)
    models = f"{len(done.reports)} models" if len(done.reports) > 1 else "a model"
    print(f"  folder     {done.folder} for {done.layout}: {models}, {len(done.copied)} files copied")
    for note in done.notes:
        print(f"  note       {note}")
    print(f"  load       as {done.folder / 'README.md'} shows")


def _as_dict(done: Rewritten) -> dict[str, object]:
    return {
        "folder": str(done.folder),
        "layout": done.layout,
        "models": {str(place): report.as_dict() for place, report in done.reports.items()},
        "copied": list(map(str, done.copied)),
        "left": {str(path): reason for path, reason in done.left.items()},
        "notes": list(done.notes),
    }
