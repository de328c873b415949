"""``bct-onnx passes``: the catalogue of passes, presets and targets."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from typing import Annotated

import typer


def passes(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A pass or preset to explain.")] = None,
) -> None:
    """List the passes, presets and targets, or explain one of them."""
    from bct_onnx import registry
    from bct_onnx.errors import UsageError

    if name is None:
        _list()
    elif name in registry.PASSES:
        _explain(name)
    elif name in registry.PRESETS:
        _explain_preset(name)
    else:
        known = [*registry.PASSES, *registry.PRESETS]
        close = difflib.get_close_matches(name, known, n=1)
        raise UsageError(
            f"there is no pass or preset '{name}'",
            fix=f"did you mean '{close[0]}'?" if close else "bct-onnx passes lists them",
        )


def _list() -> None:
    from bct_onnx import registry

    print("passes, in running order")
    for one in registry.PASSES.values():
        print(f"  {one.name:<22} {(inspect.getdoc(one) or '').splitlines()[0]}")
    print("\npresets (the first is the default)")
    for name, preset in registry.PRESETS.items():
        print(f"  {name:<22} {preset.audience}; {preset.promise}")
    print("\nwords of pipeline texts stand for")
    for name, text in registry.WORDS.items():
        print(f"  {name:<22} {text}")
    print("\ntargets (the first is the default) append")
    for name in registry.TARGETS:
        print(f"  {name:<22} {registry.lowering(name)}")


def _explain_preset(name: str) -> None:
    from bct_onnx import registry

    preset = registry.PRESETS[name]
    print(
        f"{name}\n  {registry.preset(name).full_text()}\n\n  for       {preset.audience}\n  promises  {preset.promise}"
    )


def _explain(name: str) -> None:
    from bct_onnx import registry
    from bct_onnx.option_text import option_text

    one = registry.PASSES[name]
    print(f"{name}\n\n{inspect.getdoc(one)}\n")
    fields = dataclasses.fields(one)
    if fields:
        defaults = " ".join(f"{field.name.replace('_', '-')}={option_text(field.default)}" for field in fields)
        print(f"Defaults:\n    {name}{{{defaults}}}")
