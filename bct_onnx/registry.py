"""The passes and presets there are: the only module that imports the `passes` package."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import passes
from bct_onnx.base import Pass
from bct_onnx.errors import BctError, TargetError, UsageError
from bct_onnx.pipeline import Pipeline

_HOME = Path(__file__).resolve().parent.parent / "passes"
if Path(passes.__file__ or "").resolve().parent != _HOME:
    raise BctError(
        "another package named 'passes' hides the one that belongs to bct-onnx",
        where=str(passes.__file__),
        why=f"expected it in {_HOME}; 'passes' was found earlier on sys.path",
        fix="rename that package or run from another directory",
    )

PASSES: Mapping[str, type[Pass]] = MappingProxyType({one.name: one for one in passes.PASSES})
"""Every pass by name, in running order."""

PRESETS: Mapping[str, str] = MappingProxyType(dict(passes.PRESETS))
"""Every preset: name to pipeline text (without the lowering, which the target adds). The first is the default."""

TARGETS: Mapping[str, str] = MappingProxyType(dict(passes.TARGETS))
"""Every target: name to the pipeline text it appends. The first is the default."""

INGREDIENTS: Mapping[str, str] = MappingProxyType(dict(passes.INGREDIENTS))
"""Replacements to be tried alone: name to pipeline text, without the lowering."""


def parse(text: str) -> Pipeline:
    """Parse a pipeline text with all known passes."""
    return Pipeline.parse(text, PASSES)


def preset(name: str) -> Pipeline:
    """The pipeline of a preset.

    >>> str(preset("w4a8")) == PRESETS["w4a8"]
    True
    """
    return parse(_look_up("preset", name, PRESETS))


def default_preset(target: str) -> str:
    """The preset that a target gets unless another is asked for.

    >>> default_preset("ort-cpu") == next(iter(PRESETS)), default_preset("qnn")
    (True, 'npu')
    """
    _look_up("target", target, TARGETS)
    return passes.TARGET_PRESETS.get(target, next(iter(PRESETS)))


def lowering(target: str) -> Pipeline:
    """The passes a target appends to a pipeline."""
    return parse(_look_up("target", target, TARGETS))


def plan(pipeline: str | Pipeline | Iterable[Pass], target: str) -> Pipeline:
    """The passes to run: those asked for, then the target's behind the last that is among them.

    Raises:
        UsageError: Something unknown, or nothing to do.
        TargetError: The target has no use for what a pass makes, or needs one that is not there.
    """
    if isinstance(pipeline, str):
        is_text = any(mark in pipeline for mark in ",{") or pipeline.strip() in PASSES
        pipeline = parse(pipeline) if is_text else preset(pipeline.strip())
    asked = tuple(_adapted(one, target) for one in pipeline)
    if not asked:
        raise UsageError("the pipeline has no passes", fix="give a preset or passes; see 'bct-onnx passes'")
    appended = tuple(lowering(target))
    _refuse(asked, target)
    named = {one.name for one in asked}
    begun = max((at + 1 for at, one in enumerate(appended[:-1]) if one.name in named), default=0)
    rest = appended[begun:]  # the last cleans up, which may have been asked for before the others
    return Pipeline(asked + rest if any(one.name not in named for one in rest) else asked)


def _adapted(one: Pass, target: str) -> Pass:
    """The pass with the options that ``target`` asks for, where they are at their default."""
    given = dict(one.options(defaults=False))
    wanted = passes.ADAPTED.get(target, {}).get(one.name, {})
    missing = {name: value for name, value in wanted.items() if name not in given}
    return next(iter(parse(one.with_options(missing)))) if missing else one


def _refuse(asked: tuple[Pass, ...], target: str) -> None:
    """Refuse before any work what could not become a model for ``target``."""
    fix = f"use --preset {default_preset(target)}, or another target"
    if not any(one.name.startswith("quantize") for one in asked):
        return
    for pattern, why in passes.REFUSED.get(target, {}).items():
        found = next((one for one in asked if fnmatch.fnmatch(one.spelled(), pattern)), None)
        if found is not None:
            raise TargetError(f"target {target} has no use for {found.name}", where=str(found), why=why, fix=fix)
    for name, why in passes.NEEDED.get(target, {}).items():
        if all(one.name != name for one in asked):
            raise TargetError(f"target {target} needs {name}", why=why, fix=fix)


def _look_up(kind: str, name: str, known: Mapping[str, str]) -> str:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        fix = f"did you mean '{close[0]}'?" if close else f"{kind}s: " + ", ".join(known)
        raise UsageError(f"unknown {kind} '{name}'", fix=fix)
    return known[name]
