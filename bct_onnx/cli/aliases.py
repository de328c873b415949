"""The names that commands had before: each works for one more version, and says on stderr what to write instead."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from typer.core import TyperGroup

Arguments = list[str]


def _becomes(*command: str, **options: str) -> Callable[[Arguments], Arguments]:
    """A change of the command's name that leaves its arguments as they are, but for options by other names."""
    renamed = {f"--{before}": after for before, after in options.items()}
    return lambda arguments: [*command, *_renamed(arguments, renamed)]


def _renamed(arguments: Sequence[str], names: Mapping[str, str]) -> Arguments:
    """The arguments with options by other names, whether a value is joined to one by ``=`` or follows it."""
    changed = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        changed.append(names.get(name, name) + equals + value)
    return changed


def _plan(arguments: Arguments) -> Arguments:
    changed = _renamed(arguments, {"-o": "--plan", "--output": "--plan"})
    is_written = any(argument.partition("=")[0] == "--plan" for argument in changed)
    return ["rewrite", "--dry-run", *([] if is_written else ["--plan", "-"]), *changed]


def _targets(arguments: Arguments) -> Arguments:
    separate: Arguments = []
    for argument in arguments:
        separate += argument.split("=", 1) if argument.startswith("--check=") else [argument]
    names = [argument for argument in separate if not argument.startswith("-")]
    if "--check" not in separate:
        if names:
            return ["list", *separate]
        return ["list", "targets", *separate]
    at = separate.index("--check")
    model, others = separate[at + 1 : at + 2], separate[:at] + separate[at + 2 :]
    flags = [argument for argument in others if argument.startswith("-")]
    return ["inspect", *model, *flags, "--target", *(argument for argument in others if argument not in flags)]


FORMER: Mapping[str, Callable[[Arguments], Arguments]] = {
    "plan": _plan,
    "passes": _becomes("list"),
    "presets": _becomes("list", "presets"),
    "targets": _targets,
    "eval": _becomes("compare"),
    "sensitivity": _becomes("study"),
    "explain": _becomes("study"),
    "frontier": _becomes("study", "--by", "size"),
    "budget": _becomes("bench", "--by-pass", runs="--rounds"),
    "tune": _becomes("bench", "--kernels"),
}
"""The former names, and what the arguments behind one become: today's command with its arguments."""

SYNONYMS: Mapping[str, str] = {"quantize": "rewrite"}
"""Other words for a command that users look for; they stay."""


class CommandGroup(TyperGroup):
    """The commands, which answer to their former names too; those are neither listed in the help nor completed."""

    def resolve_command(self, ctx: Any, args: Arguments) -> tuple[str | None, Any, Arguments]:
        """The command that the first argument names, and the arguments for it."""
        name = args[0]
        if name in FORMER:
            args = FORMER[name](args[1:])
            hint = f"'bct-onnx {name}' goes with the next version; write: bct-onnx {shlex.join(args)}"
            print(f"hint: {hint}", file=sys.stderr)
        elif name in SYNONYMS:
            args = [SYNONYMS[name], *args[1:]]
        return super().resolve_command(ctx, args)
