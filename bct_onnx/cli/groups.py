"""Option groups: what several commands ask for in the same words is declared once, and read in the same way everywhere.

A group is a frozen dataclass whose fields are options. A command takes the whole group as one parameter; on its command
line the fields are options of their own, and its help shows them together under the group's title.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin, get_type_hints

from typer.core import TyperCommand

_REST = "Options"


class OptionGroup:
    """Base of the dataclasses that are option groups."""

    panel: ClassVar[str] = _REST
    """The title over these options in the help; ``Annotated[Group, "Title"]`` gives another in one command."""


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the fields of its option groups as parameters of their own, as Typer needs them.

    Its parameters are options by their annotations; `bct_onnx.cli.rewrite` has an example.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        hint = _declared(hints[parameter.name])
        group, title = _group_of(hint)
        if group is None:
            parameters.append(parameter.replace(annotation=hint))
            continue
        groups[parameter.name] = group
        parameters.extend(_options(group, title))

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        for name, group in groups.items():
            arguments[name] = group(**{field.name: arguments.pop(field.name) for field in dataclasses.fields(group)})
        command(**arguments)

    del run.__wrapped__  # else the signature would be that of the command itself
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    vars(run)["__signature__"] = inspect.Signature(parameters)
    return run


def _declared(hint: Any) -> Any:
    """The annotation as it was written: Python 3.10 puts one whose default is None into an ``Optional`` of its own, in
    which Typer does not see the option.
    """
    if get_origin(hint) is not Union:
        return hint
    return next((part for part in get_args(hint) if get_origin(part) is Annotated), hint)


def _group_of(hint: Any) -> tuple[type[Any] | None, str]:
    """The option group that a parameter's annotation names, and the title it gets; no group for an ordinary one."""
    title = ""
    if get_origin(hint) is Annotated:
        hint, *extras = get_args(hint)
        title = next((extra for extra in extras if isinstance(extra, str)), "")
    if get_origin(hint) or not (isinstance(hint, type) and issubclass(hint, OptionGroup)):  # list[str] is one on 3.10
        return None, ""
    return hint, title or hint.panel


def _options(group: type[Any], title: str) -> Iterator[inspect.Parameter]:
    """The fields of a group as parameters of a command, each with the title of its panel."""
    hints = get_type_hints(group, include_extras=True)
    for field in dataclasses.fields(group):
        kind, option = get_args(hints[field.name])
        option = copy.copy(option)
        option.rich_help_panel = title
        default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        yield inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
        )


class PanelCommand(TyperCommand):
    """A command whose help lists its options under the titles of their panels, in plain text that can be searched.

    (Typer draws panels as boxes of its own, which cut pipelines and leave 20 columns for the explanations.)
    """

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments first, then panel by panel, what belongs to none last."""
        panels: dict[str, list[tuple[str, str]]] = {}
        rest: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            title = getattr(parameter, "rich_help_panel", None)
            if parameter.param_type_name == "argument":
                title = "Arguments"
            lines = rest if title in (None, _REST) else panels.setdefault(str(title), [])
            lines.append(record)
        for title, lines in [*panels.items(), (_REST, rest)]:
            with formatter.section(title):
                formatter.write_dl(lines)
