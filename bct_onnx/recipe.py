"""Recipes: a run as a TOML file.

preset = "bct-plus"              # or: passes = "fuse-gelu,quantize-weights{bits=4}"
target = "ort-cpu"

[options.quantize-weights]
bits = 8
keep = ["classifier*"]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bct_onnx import registry, targets, toml
from bct_onnx.base import Pass, Stage
from bct_onnx.errors import UsageError, nearest
from bct_onnx.graph.names import names_of, stated, without
from bct_onnx.option_text import fields_of, read_options
from bct_onnx.pipeline import Pipeline, find, split
from bct_onnx.storing import StoringPass
from bct_onnx.tasks import own_text

_KEYS = ("preset", "passes", "target", "options")


def choose(
    *, preset: str | None = None, passes: str | None = None, recipe: Path | None = None, target: str | None = None
) -> tuple[Pipeline, str]:
    """The pipeline and target that a command line asks for.

    A recipe of options alone may come with a preset, which they change.

    Raises:
        UsageError: More than one way to say what to do, or something unknown in it.
    """
    given = {"--preset": preset, "--passes": passes, "--recipe": recipe}
    choices = list(stated(given))
    if len(choices) > 1 and choices != ["--preset", "--recipe"]:
        raise UsageError(f"{' and '.join(choices)} cannot go together", fix="give one of them")
    if recipe is not None:
        return read(recipe, target, preset)
    target = target or targets.DEFAULT
    if passes is not None:
        return registry.parse(passes), target
    return registry.preset(preset or registry.default_preset(target)), target


def without_padding(pipeline: Pipeline) -> Pipeline:
    """The pipeline with a pass that computes real tokens alone, whatever a model's outputs are.

    >>> str(without_padding(registry.parse("normalize")))
    'normalize,remove-padding'
    """
    removal = registry.parse("remove-padding")
    if set(names_of(removal)) <= set(names_of(pipeline)):
        return pipeline
    return Pipeline((*pipeline, *removal))


def with_own_text(pipeline: Pipeline, home: Path) -> Pipeline:
    """A preset's pipeline, calibrated on text of ours where the model's folder ``home`` has a tokenizer for it."""
    if not own_text.is_usable(home) or find(pipeline, "calibrate") is None:
        return pipeline
    return with_data(pipeline, data=own_text.NAME, tokenizer=home)


def with_data(pipeline: Pipeline, **options: object) -> Pipeline:
    """The pipeline with ``options`` (data, tokenizer, column) for its calibrate passes; None leaves one as it is.

    Raises:
        UsageError: No pass of the pipeline is calibrate, or it does not take them so.
    """
    changed = stated(options)
    calibrate = find(pipeline, "calibrate")
    if changed and calibrate is None:
        raise UsageError(
            "no pass of this pipeline takes calibration data",
            where=str(pipeline),
            fix="use a preset with calibrate (see 'bct-onnx list'), or put calibrate before the passes that quantize",
        )
    if calibrate is None:
        return pipeline
    return pipeline.replace({calibrate.name: read_options(type(calibrate), changed)})


def with_size(
    pipeline: Pipeline, *, ratio: float | None = None, bits: float | None = None, row_widths: bool = True
) -> Pipeline:
    """The pipeline with bits allotted for a size: ``allocate`` before the first pass that stores tensors.

    Args:
        pipeline: What is asked for; an ``allocate`` of its own gets the size.
        ratio: Times smaller than fp32 by parameters, everything counted.
        bits: Instead: stored bits per parameter.
        row_widths: Rows of a table may get different bits.

    Raises:
        UsageError: Not one of them is given, or it is no positive number.
    """
    if (ratio is None) == (bits is None):
        raise UsageError("allocate needs one size", fix="give either a ratio, such as 10, or bits, such as 3.2")
    size = {"bits": bits} if ratio is None else {"ratio": ratio}
    pipeline = with_tables_measured(pipeline)
    allocate = registry.parse("allocate").replace({"allocate": {**size, "row_widths": row_widths}})
    passes = without(pipeline, ("allocate",))
    exact, _ = split(passes)
    at = next(iter(_storing(passes)), len(exact))
    return Pipeline((*passes[:at], *allocate, *passes[at:]))


def with_tables_measured(pipeline: Pipeline) -> Pipeline:
    """The pipeline with errors in rows of tables measured where its calibrate reads a user's data for solvers.

    >>> str(with_tables_measured(registry.parse("calibrate{data=a.npz},quantize-weights")))
    'calibrate{data=a.npz tables=true},quantize-weights'
    """
    calibrate = find(pipeline, "calibrate")
    if calibrate is None or "data" not in calibrate.reads():
        return pipeline
    return pipeline.replace({"calibrate": {"tables": True}})


def _storing(passes: Iterable[Pass]) -> list[int]:
    """Where the passes that store tensors stand."""
    return [number for number, each in enumerate(passes) if isinstance(each, StoringPass)]


def with_distilling(pipeline: Pipeline, ratio: float = 0.0) -> Pipeline:
    """The pipeline with what it stores trained: ``distill`` behind the last pass that stores tensors.

    Args:
        pipeline: What is asked for.
        ratio: Times smaller than fp32 that the model shall become; where formats alone do not reach it, layers go and
            tables become thin before anything is measured. 0 leaves the model whole.

    Raises:
        UsageError: No pass of it stores tensors.
    """
    stores = _storing(pipeline)
    if not stores:
        raise UsageError("no pass of this pipeline stores tensors", where=str(pipeline), fix="use a preset that does")
    passes, named = list(pipeline), set(names_of(pipeline))
    if "distill" not in named:
        passes[stores[-1] + 1 : stores[-1] + 1] = registry.parse("distill")
    if ratio and named.isdisjoint(("drop-layers", "thin-tables")):
        at = 1 + max((number for number, each in enumerate(passes) if each.stage is Stage.LIFT), default=-1)
        fewer = registry.parse("drop-layers,thin-tables")
        passes[at:at] = fewer.replace({each.name: {"ratio": ratio} for each in fewer})
    return Pipeline(tuple(passes))


def with_formats(pipeline: Pipeline, formats: Mapping[str, tuple[str, ...]]) -> Pipeline:
    """The pipeline with formats of single tensors, by the names of passes, before those that these have."""
    passes: list[Pass] = []
    for graph_pass in pipeline:
        if isinstance(graph_pass, StoringPass):
            passes.append(graph_pass.replace(formats=(*formats.get(graph_pass.name, ()), *graph_pass.formats)))
        else:
            passes.append(graph_pass)
    return Pipeline(tuple(passes))


def read(path: Path, target: str | None = None, preset: str | None = None) -> tuple[Pipeline, str]:
    """The pipeline of a recipe and the target: the one given, else the recipe's, else the default.

    Options may be for passes that the target appends.

    Raises:
        UsageError: The file cannot be read, is no TOML, holds something unknown, or names what ``preset`` should be.
    """
    try:
        content = toml.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, toml.TOMLDecodeError) as error:
        raise UsageError("the recipe cannot be read", where=str(path), why=str(error)) from error
    for key in content:
        if key not in _KEYS:
            raise _unknown("key", key, _KEYS, path)
    if "preset" in content and "passes" in content:
        raise UsageError("a recipe has either preset or passes", where=str(path))
    if preset is not None and not content.keys().isdisjoint(("preset", "passes")):
        fix = "leave out --preset, or the preset and passes of the recipe"
        raise UsageError("--preset and this recipe cannot go together", where=str(path), fix=fix)
    target = target or str(content.get("target", targets.DEFAULT))
    if "passes" in content:
        pipeline = registry.parse(str(content["passes"]))
    else:
        pipeline = registry.preset(preset or str(content.get("preset", registry.default_preset(target))))
    options = content.get("options", {})
    if isinstance(options, dict) and any(each.name in options for each in registry.lowering(target)):
        pipeline = registry.complete(pipeline, target)
    return _with_options(pipeline, options, path), target


def _with_options(pipeline: Pipeline, options: Any, path: Path) -> Pipeline:
    kinds = {each.name: type(each) for each in pipeline}
    if not isinstance(options, dict):
        raise UsageError("options of a recipe are tables", where=str(path), fix="write [options.PASS]")
    changed: dict[str, dict[str, object]] = {}
    for name, values in options.items():
        if name not in kinds:
            raise _unknown("pass of this pipeline", name, kinds, path)
        if not isinstance(values, dict):
            raise UsageError(f"options of '{name}' are no table", where=str(path), fix=f"write [options.{name}]")
        kind = kinds[name]
        fields = fields_of(kind)
        for option in values:
            if option.replace("_", "-") not in fields:
                raise _unknown(f"option of {name}", option, fields, path)
        named = {fields[option.replace("_", "-")]: value for option, value in values.items()}
        changed[name] = read_options(kind, named, f"[options.{name}] of {path}")
    return pipeline.replace(changed)


def _unknown(kind: str, name: str, known: Iterable[str], path: Path) -> UsageError:
    return UsageError(f"unknown {kind} '{name}'", where=str(path), fix=nearest(name, known))
