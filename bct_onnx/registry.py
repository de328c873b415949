"""The passes, presets and targets there are: the only module that imports the `passes` package."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import passes
from bct_onnx import presets, targets
from bct_onnx.base import Pass, Stage
from bct_onnx.errors import BctError, TargetError, UsageError
from bct_onnx.pipeline import Pipeline
from bct_onnx.targets import Refusal, Target

_HOME = Path(__file__).resolve().parent.parent / "passes"
if Path(passes.__file__ or "").resolve().parent != _HOME:
    raise BctError(
        "another package named 'passes' hides the one that belongs to bct-onnx",
        where=str(passes.__file__),
        why=f"expected it in {_HOME}; 'passes' was found earlier on sys.path",
        fix="rename that package or run from another directory",
    )

_PRESETS = presets.read(_HOME / "presets.toml")

PASSES: Mapping[str, type[Pass]] = MappingProxyType({kind.name: kind for kind in passes.PASSES})
"""Every pass by name, in running order."""

PRESETS: Mapping[str, presets.Preset] = MappingProxyType(dict(_PRESETS.presets))
"""Every preset by name. The first is the default."""

SYNONYMS: Mapping[str, str] = MappingProxyType(dict(_PRESETS.synonyms))
"""Names that other tools have for a preset: name to preset."""

MEASUREMENT: presets.Measurement = _PRESETS.measurement
"""How the figures of presets were measured."""

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

    >>> preset("int8") == preset("w8a8")
    True

    Raises:
        UsageError: There is none of this name.
    """
    if name not in PRESETS and name not in SYNONYMS:
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


def complete(pipeline: str | Pipeline | Iterable[Pass], target: str) -> Pipeline:
    """The passes to run: those asked for, then the target's behind the last that is among them.

    Passes that pack wait until all is lowered, wherever they stand; one that the target has too is run as asked for.

    Raises:
        UsageError: Something unknown, or nothing to do.
        TargetError: The target has no use for what a pass makes, or needs one that is not there.
    """
    if isinstance(pipeline, str):
        pipeline = parse(pipeline)
    facts = targets.find(target)
    adapting = {each.name: dict(each.options(defaults=False)) for each in parse(facts.adapts)}
    asked = tuple(_adapted(each, adapting.get(each.name, {})) for each in pipeline)
    if not asked:
        raise UsageError("the pipeline has no passes", fix="give a preset or passes; see 'bct-onnx list'")
    _refuse(asked, facts)
    packing = {each.name: each for each in asked if each.stage is Stage.PACK}
    asked = tuple(each for each in asked if each.stage is not Stage.PACK)
    if packing and asked and asked[-1].stage is Stage.TIDY:  # what packs comes before it, and it from the target
        asked = asked[:-1]
    appended = _packed(tuple(lowering(target)), packing)
    named = {each.name for each in asked}
    begun = 0
    for at, each in enumerate(appended[:-1], start=1):  # the last cleans up, which may have been asked for before
        if each.name in named:
            begun = at
    rest = appended[begun:]
    return Pipeline(asked + rest if any(each.name not in named for each in rest) else asked)


def _packed(lowering: tuple[Pass, ...], asked: Mapping[str, Pass]) -> tuple[Pass, ...]:
    """A lowering with the passes that pack which were asked for, in front of the last, which cleans up."""
    named = {each.name for each in lowering}
    new = tuple(each for name, each in asked.items() if name not in named)
    passes = tuple(asked.get(each.name, each) for each in lowering)
    return (*passes[:-1], *new, *passes[-1:])


def _adapted(asked: Pass, wanted: Mapping[str, object]) -> Pass:
    """The pass with the options that a target wants, where they are at their default."""
    given = dict(asked.options(defaults=False))
    return asked.replace(**{name: value for name, value in wanted.items() if name not in given})


def _refuse(asked: tuple[Pass, ...], target: Target) -> None:
    """Refuse before any work what could not become a model for ``target``."""
    fix = f"use --preset {default_preset(target.name)}, or another target"
    if not any(each.stage.quantizes for each in asked):
        return
    for refusal in target.refuses:
        for each in asked:
            if _covers(refusal, each):
                what = f"target {target.name} has no use for {each.name}"
                raise TargetError(what, where=str(each), why=refusal.why, fix=fix)
    for need in target.needs:
        if all(each.name != need.name for each in asked):
            raise TargetError(f"target {target.name} needs {need.name}", why=need.why, fix=fix)


def _covers(refusal: Refusal, asked: Pass) -> bool:
    """Whether a target refuses this pass with these options."""
    if refusal.stage:
        return asked.stage.name.lower() == refusal.stage
    options = dict(asked.options(defaults=True))
    return asked.name == refusal.name and all(options[name] in values for name, values in refusal.options.items())
