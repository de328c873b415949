"""The passes, presets and targets there are: the only module that imports the `passes` package."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import passes
from bct_onnx import presets, targets
from bct_onnx.base import Pass, Stage
from bct_onnx.course import quantizes
from bct_onnx.errors import BctError, TargetError, UsageError, nearest
from bct_onnx.graph.names import by_name, names_of, without
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

PASSES: Mapping[str, type[Pass]] = MappingProxyType(by_name(passes.PASSES))
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


def is_preset(name: str) -> bool:
    """Whether a preset has this name, or other tools have it for one."""
    return name in PRESETS or name in SYNONYMS


def preset(name: str) -> Pipeline:
    """The pipeline of a preset.

    >>> preset("int8") == preset("w8a8")
    True

    Raises:
        UsageError: There is none of this name.
    """
    if not is_preset(name):
        raise UsageError(f"unknown preset '{name}'", fix=nearest(name, PRESETS, "presets"))
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
    adapting = {graph_pass.name: dict(graph_pass.options(defaults=False)) for graph_pass in parse(facts.adapts)}
    passes = tuple(_adapted(graph_pass, adapting.get(graph_pass.name, {})) for graph_pass in pipeline)
    if not passes:
        raise UsageError("the pipeline has no passes", fix="give a preset or passes; see 'bct-onnx list'")
    _refuse(passes, facts)
    packing = by_name(graph_pass for graph_pass in passes if graph_pass.stage is Stage.PACK)
    passes = tuple(without(passes, packing))
    if packing and passes and passes[-1].stage is Stage.TIDY:  # what packs comes before it, and it from the target
        passes = passes[:-1]
    appended = _packed(tuple(lowering(target)), packing)
    named = set(names_of(passes))
    begun = 0
    for at, graph_pass in enumerate(appended[:-1], start=1):  # the last cleans up, which may have been asked for before
        if graph_pass.name in named:
            begun = at
    rest = appended[begun:]
    if set(names_of(rest)) <= named:
        return Pipeline(passes)
    return Pipeline(passes + rest)


def _packed(lowering: tuple[Pass, ...], packing: Mapping[str, Pass]) -> tuple[Pass, ...]:
    """A lowering with the passes that pack which were asked for, in front of the last, which cleans up."""
    new = without(packing.values(), names_of(lowering))
    passes = tuple(packing.get(graph_pass.name, graph_pass) for graph_pass in lowering)
    return (*passes[:-1], *new, *passes[-1:])


def _adapted(graph_pass: Pass, defaults: Mapping[str, object]) -> Pass:
    """The pass with the options that a target wants, where they are at their default."""
    chosen = dict(graph_pass.options(defaults=False))
    return graph_pass.replace(**{name: value for name, value in defaults.items() if name not in chosen})


def _refuse(passes: tuple[Pass, ...], target: Target) -> None:
    """Refuse before any work what could not become a model for ``target``."""
    fix = f"use --preset {default_preset(target.name)}, or another target"
    if not quantizes(passes):
        return
    for refusal in target.refuses:
        for graph_pass in passes:
            if _covers(refusal, graph_pass):
                problem = f"target {target.name} has no use for {graph_pass.name}"
                raise TargetError(problem, where=str(graph_pass), why=refusal.why, fix=fix)
    for need in target.needs:
        if need.name not in names_of(passes):
            raise TargetError(f"target {target.name} needs {need.name}", why=need.why, fix=fix)


def _covers(refusal: Refusal, graph_pass: Pass) -> bool:
    """Whether a target refuses this pass with these options."""
    if refusal.stage:
        return graph_pass.stage.name.lower() == refusal.stage
    options = dict(graph_pass.options(defaults=True))
    return graph_pass.name == refusal.name and all(options[name] in values for name, values in refusal.options.items())
