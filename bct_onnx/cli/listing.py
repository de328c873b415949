"""``bct-onnx list``: the presets, targets and passes there are, and all about one of them."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bct_onnx.cli import options
from bct_onnx.cli.completion import listed_names

if TYPE_CHECKING:
    from bct_onnx.presets import Preset
    from bct_onnx.targets import Target

KINDS = ("presets", "targets", "passes")


def list_names(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[WHAT]",
            help="presets, targets or passes; or the name of one of them, which is explained.",
            autocompletion=listed_names,
        ),
    ] = None,
    *,
    as_json: options.AsJson = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="passes: print the page passes/README.md instead.")
    ] = False,
) -> None:
    """List the presets, targets and passes, or explain one."""
    from bct_onnx import registry
    from bct_onnx.errors import UsageError

    if as_markdown:
        if what != "passes":
            raise UsageError("only the passes have such a page", where="--markdown", fix="bct-onnx list passes")
        from bct_onnx.cli.tables.catalogue import page

        print(page(), end="")
        return
    kinds: tuple[str, ...] = KINDS
    if what in KINDS:
        kinds = (what,)
    elif what is None:
        pass
    elif what in registry.PASSES or what in registry.PRESETS or what in registry.TARGETS:
        _explain(what, as_json=as_json)
        return
    elif what in registry.SYNONYMS:
        _explain(registry.SYNONYMS[what], as_json=as_json)
        return
    else:
        raise _unknown(what)
    if as_json:
        figures = {kind: _FIGURES[kind]() for kind in kinds}
        print(json.dumps(figures[what] if what else figures, indent=2))
        return
    print("\n\n".join("\n".join(_LINES[kind]()) for kind in kinds))


def _unknown(name: str) -> Exception:
    from bct_onnx import registry
    from bct_onnx.errors import UsageError

    known = [*KINDS, *registry.PASSES, *registry.PRESETS, *registry.TARGETS]
    close = difflib.get_close_matches(name, known, n=1)
    fix = f"did you mean '{close[0]}'?" if close else "bct-onnx list shows them all"
    return UsageError(f"there is no preset, target or pass '{name}'", fix=fix)


def _preset_lines() -> list[str]:
    from bct_onnx import registry

    heading = f"{'presets (the first is the default)':<36}{'MB':>5} {'lost':>5} {'speed':>6}  for whom"
    lines = [heading]
    for name, preset in registry.PRESETS.items():
        lines.append(f"  {name:<34}{_measured_cells(preset)}  {preset.audience}")
    setting = registry.MEASUREMENT
    lines.append("")
    lines.append(f"  MB, points lost and times faster: {setting.model};")
    lines.append(f"  {setting.score};")
    lines.append(f"  {setting.speed}; {setting.machine}; commit {setting.commit}")
    synonyms = ", ".join(f"{name} for {preset}" for name, preset in registry.SYNONYMS.items())
    lines.append(f"  other names: {synonyms}; what a name stands for: bct-onnx list NAME")
    return lines


def _measured_cells(preset: Preset) -> str:
    measured = preset.measured
    if measured is None:
        return f"{'':18}"
    return f"{measured.megabytes:>5.1f} {measured.points_lost:>5.2f} {measured.times_faster:>5.2f}x"


def _target_lines() -> list[str]:
    from bct_onnx import registry, targets
    from bct_onnx.cli.tables.targets import taken

    lines = ["targets (the first is the default)"]
    for name in registry.TARGETS:
        target = targets.find(name)
        preset = registry.default_preset(name)
        lines.append(f"  {name:<22} {target.about}")
        lines.append(f"  {'':<22} {target.provider}, preset {preset}; takes {taken(target)}")
        lines.append(f"  {'':<22} appends {registry.lowering(name)}")
    return lines


def _pass_lines() -> list[str]:
    from bct_onnx import registry

    lines = ["passes, in running order"]
    for kind in registry.PASSES.values():
        lines.append(f"  {kind.name:<22} {(inspect.getdoc(kind) or '').splitlines()[0]}")
    return lines


def _preset_figures() -> list[dict[str, Any]]:
    from bct_onnx import registry

    return [
        {"name": name} | dataclasses.asdict(preset) | {"passes": registry.preset(name).full_text()}
        for name, preset in registry.PRESETS.items()
    ]


def _target_figures() -> list[dict[str, Any]]:
    from bct_onnx import registry, targets

    return [_figures_of(targets.find(name)) for name in registry.TARGETS]


def _pass_figures() -> list[dict[str, Any]]:
    from bct_onnx import registry

    return [
        {"name": kind.name, "about": (inspect.getdoc(kind) or "").splitlines()[0], "defaults": _defaults(kind)}
        for kind in registry.PASSES.values()
    ]


_LINES = {"presets": _preset_lines, "targets": _target_lines, "passes": _pass_lines}
_FIGURES = {"presets": _preset_figures, "targets": _target_figures, "passes": _pass_figures}


def _explain(name: str, *, as_json: bool) -> None:
    """Print all about one pass, preset or target."""
    from bct_onnx import registry, targets
    from bct_onnx.cli.tables.targets import target_page

    if as_json:
        every = [*_preset_figures(), *_target_figures(), *_pass_figures()]
        print(json.dumps(next(figures for figures in every if figures["name"] == name), indent=2))
        return
    if name in registry.PASSES:
        kind = registry.PASSES[name]
        print(f"{name}\n\n{inspect.getdoc(kind)}\n")
        if dataclasses.fields(kind):
            print(f"Defaults:\n    {_defaults(kind)}")
    elif name in registry.PRESETS:
        preset = registry.PRESETS[name]
        print(f"{name}\n  {registry.preset(name).full_text()}\n")
        print(f"  for       {preset.audience}\n  promises  {preset.promise}")
    else:
        target = targets.find(name)
        print("\n".join(target_page(target, registry.default_preset(name), str(registry.lowering(name)))))


def _defaults(kind: Any) -> str:
    """A pass as pipeline text, all its options at their defaults."""
    from bct_onnx.option_text import option_text

    fields = dataclasses.fields(kind)
    options = " ".join(f"{field.name.replace('_', '-')}={option_text(field.default)}" for field in fields)
    if fields:
        return f"{kind.name}{{{options}}}"
    return str(kind.name)


def _figures_of(target: Target) -> dict[str, Any]:
    """A target, for JSON."""
    from bct_onnx import registry
    from bct_onnx.cli.tables.targets import form_text

    accepts = {operator: sorted(set(map(form_text, forms))) for operator, forms in sorted(target.accepts.items())}
    return {
        "name": target.name,
        "about": target.about,
        "caution": target.caution,
        "provider": target.provider,
        "preset": registry.default_preset(target.name),
        "passes": str(registry.lowering(target.name)),
        "opset": target.opset,
        "fixed_shapes": target.fixed_shapes,
        "must": sorted(target.must),
        "fuses": [{"pattern": fusion.pattern, "into": fusion.into} for fusion in target.fuses],
        "sources": list(target.sources),
        "accepts": accepts,
    }
