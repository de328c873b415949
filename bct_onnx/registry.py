"""The passes, presets and targets there are: the only module that imports the `passes` package."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import passes
from bct_onnx import presets, targets
from bct_onnx.base import Pass
from bct_onnx.errors import BctError, TargetError, UsageError
from bct_onnx.pipeline import Pipeline
from bct_onnx.targets import Target

_HOME = Path(__file__).resolve().parent.parent / "passes"
if Path(passes.__file__ or "").resolve().parent != _HOME:
    raise BctError(
        "another package named 'passes' hides the one that belongs to bct-onnx",
        where=str(passes.__file__),
        why=f"expected it in {_HOME}; 'passes' was found earlier on sys.path",
        fix="rename that package or run from another directory",
    )

_PRESETS = presets.read(_HOME / "presets.toml")

PASSES: Mapping[str, type[Pass]] = MappingProxyType({one.name: one for one in passes.PASSES})
"""Every pass by name, in running order."""

PRESETS: Mapping[str, presets.Preset] = MappingProxyType(dict(_PRESETS.presets))
"""Every preset by name. The first is the default."""

WORDS: Mapping[str, str] = MappingProxyType(dict(_PRESETS.words))
"""What presets, and fragments of them, stand for in a pipeline text."""

INGREDIENTS: Mapping[str, str] = MappingProxyType(dict(_PRESETS.ingredients))
"""Replacements to be tried alone: name to pipeline text, without the lowering."""

TARGETS: tuple[str, ...] = targets.names()
"""Every target's name. The first is the default."""


def parse(text: str) -> Pipeline:
    """Parse a pipeline text of passes and presets.

    >>> parse("w4") == preset("w4"), len(parse("lift,quantize-weights{bits=3}")) == len(preset("lift")) + 1
    (True, True)
    """
    return Pipeline.parse(text, PASSES, WORDS)


def preset(name: str) -> Pipeline:
    """The pipeline of a preset.

    Raises:
        UsageError: There is none of this name.
    """
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1)
        fix = f"did you mean '{close[0]}'?" if close else "presets: " + ", ".join(PRESETS)
        raise UsageError(f"unknown preset '{name}'", fix=fix)
    return parse(name)


def default_preset(target: str) -> str:
    """The preset that a target gets unless another is asked for.

    >>> default_preset("ort-cpu") == next(iter(PRESETS)), default_preset("qnn")
    (True, 'npu')
    """
    return targets.find(target).preset or next(iter(PRESETS))


def lowering(target: str) -> Pipeline:
    """The passes a target appends to a pipeline."""
    return parse(targets.find(target).lowering)


def plan(pipeline: str | Pipeline | Iterable[Pass], target: str) -> Pipeline:
    """The passes to run: those asked for, then the target's behind the last that is among them.

    Raises:
        UsageError: Something unknown, or nothing to do.
        TargetError: The target has no use for what a pass makes, or needs one that is not there.
    """
    if isinstance(pipeline, str):
        pipeline = parse(pipeline)
    facts = targets.find(target)
    adapting = {one.name: dict(one.options(defaults=False)) for one in parse(facts.adapts)}
    asked = tuple(_adapted(one, adapting.get(one.name, {})) for one in pipeline)
    if not asked:
        raise UsageError("the pipeline has no passes", fix="give a preset or passes; see 'bct-onnx passes'")
    _refuse(asked, facts)
    appended = tuple(lowering(target))
    named = {one.name for one in asked}
    begun = max((at + 1 for at, one in enumerate(appended[:-1]) if one.name in named), default=0)
    rest = appended[begun:]  # the last cleans up, which may have been asked for before the others
    return Pipeline(asked + rest if any(one.name not in named for one in rest) else asked)


def _adapted(one: Pass, wanted: Mapping[str, object]) -> Pass:
    """The pass with the options that a target asks for, where they are at their default."""
    given = dict(one.options(defaults=False))
    missing = {name: value for name, value in wanted.items() if name not in given}
    if not missing:
        return one
    return parse(one.with_options(missing)).passes[0]


def _refuse(asked: tuple[Pass, ...], target: Target) -> None:
    """Refuse before any work what could not become a model for ``target``."""
    fix = f"use --preset {default_preset(target.name)}, or another target"
    if not any(one.name.startswith("quantize") for one in asked):
        return
    for refusal in target.refuses:
        for pattern in refusal.passes:
            refused = [one for one in asked if fnmatch.fnmatch(one.spelled(), pattern)]
            if refused:
                what = f"target {target.name} has no use for {refused[0].name}"
                raise TargetError(what, where=str(refused[0]), why=refusal.why, fix=fix)
    for need in target.needs:
        if all(one.name != need.name for one in asked):
            raise TargetError(f"target {target.name} needs {need.name}", why=need.why, fix=fix)
