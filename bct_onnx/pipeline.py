"""Pipelines: passes in order, with a text form that parses back to the same passes.

    lift,quantize-weights{bits=4 block=64x64 scale=shift},my_passes:MyPass{limit=3},clean-up

A value with spaces, commas or braces stands in double quotes, written as JSON writes a string. A word such as ``lift``
stands for the passes of a preset, or of a fragment of several; ``module:Class`` is a pass of a user's own. Pipelines
are printed as passes alone: ``Pipeline.parse(str(pipeline)) == pipeline`` holds for every pipeline.
"""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from bct_onnx import own_passes
from bct_onnx.base import EXACT, Pass
from bct_onnx.errors import UsageError, nearest
from bct_onnx.option_text import PLAIN, fields_of, option_types, read_option

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_NAME = rf"{own_passes.NAME}|[A-Za-z0-9_-]+"
_PASS = re.compile(rf'\s*(?P<name>{_NAME})\s*(?:\{{(?P<options>(?:{_QUOTED}|[^{{}}"])*)\}})?\s*')
_OPTION = re.compile(rf"\s*(?P<name>[A-Za-z0-9_-]+)\s*=(?P<value>{_QUOTED}|{PLAIN.pattern})\s*,?\s*")


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Passes in running order."""

    passes: tuple[Pass, ...] = ()

    @classmethod
    def parse(
        cls, text: str, known: Mapping[str, type[Pass]], words: Mapping[str, str] = MappingProxyType({})
    ) -> Pipeline:
        """Read a pipeline text. Errors point at the place with a caret.

        Args:
            text: Passes and words separated by commas, each pass with ``{name=value ...}`` options if wanted.
            known: Pass class by name.
            words: The pipeline text that each word stands for.

        Raises:
            UsageError: unknown pass or option, bad value, or text that is not a pipeline.
        """
        passes: list[Pass] = []
        at = 0
        while at < len(text):
            match = _PASS.match(text, at)
            if not match:
                raise _at(text, at, "expected the name of a pass")
            if match["name"] in words:
                passes += _expanded(text, match, known, words)
            else:
                passes.append(_make(text, match, known, words))
            at = match.end()
            if at < len(text):
                if text[at] != ",":
                    raise _at(text, at, "expected ',' between passes or '{options}' after a name")
                at += 1
        return cls(tuple(passes))

    def __str__(self) -> str:
        return ",".join(map(str, self.passes))

    def full_text(self) -> str:
        """The text with every option of every pass, defaults too."""
        return ",".join(each.full_text() for each in self.passes)

    def replace(self, changes: Mapping[str, Mapping[str, object]]) -> Pipeline:
        """The pipeline with some options set anew, by the name of the pass.

        Raises:
            UsageError: A value is not allowed.
        """
        return Pipeline(tuple(each.replace(**changes.get(each.name, {})) for each in self.passes))

    def __iter__(self) -> typing.Iterator[Pass]:
        return iter(self.passes)

    def __len__(self) -> int:
        return len(self.passes)


def find(passes: Iterable[Pass], name: str) -> Pass | None:
    """The first pass of a name; None where there is none."""
    for graph_pass in passes:
        if graph_pass.name == name:
            return graph_pass
    return None


def split(passes: Iterable[Pass]) -> tuple[tuple[Pass, ...], tuple[Pass, ...]]:
    """The exact passes that a pipeline begins with, and the rest."""
    every = tuple(passes)
    for number, each in enumerate(every):
        if each.promise != EXACT:
            return every[:number], every[number:]
    return every, ()


def _expanded(
    text: str, match: re.Match[str], known: Mapping[str, type[Pass]], words: Mapping[str, str]
) -> tuple[Pass, ...]:
    """The passes that a word stands for."""
    name = match["name"]
    passes = Pipeline.parse(words[name], known, words)
    if match["options"] is not None:
        problem = f"'{name}' stands for several passes and takes no options"
        raise _at(text, match.start("options") - 1, problem, f"write the passes and their options: {passes}")
    return passes.passes


def _kind(text: str, match: re.Match[str], known: Mapping[str, type[Pass]], words: Mapping[str, str]) -> type[Pass]:
    """The class of a pass: one of those known, or the user's own."""
    name = match["name"]
    if name in known:
        return known[name]
    if ":" not in name:
        raise _at(text, match.start("name"), f"unknown pass '{name}'", nearest(name, sorted((*known, *words))))
    try:
        return own_passes.load(name)
    except UsageError as error:
        raise _at(text, match.start("name"), error.what, error.fix, error.why) from error


def _make(text: str, match: re.Match[str], known: Mapping[str, type[Pass]], words: Mapping[str, str]) -> Pass:
    name = match["name"]
    kind = _kind(text, match, known, words)
    types = option_types(kind)
    fields = fields_of(kind)
    values: dict[str, object] = {}
    at, end = match.span("options") if match["options"] is not None else (0, 0)
    while at < end:
        option = _OPTION.match(text, at, end)
        if not option:
            raise _at(text, at, f"expected 'option=value' inside the braces of '{name}'")
        key = option["name"].replace("_", "-")
        if key not in fields:
            raise _at(text, option.start("name"), f"'{name}' has no option '{key}'", nearest(key, sorted(fields)))
        try:
            value = option["value"]
            values[fields[key]] = read_option(json.loads(value) if value[:1] == '"' else value, types[fields[key]])
        except ValueError as error:
            raise _at(
                text, option.start("value"), f"'{option['value']}' is no value for '{name}' {key}: {error}"
            ) from None
        at = option.end()
    return _construct(kind, values, text, match.start("name"))


def _construct(kind: type[Pass], values: dict[str, object], text: str, at: int) -> Pass:
    try:
        return kind(**values)
    except UsageError as error:
        raise _at(text, at, error.what, error.fix) from error


def _at(text: str, at: int, problem: str, fix: str = "", why: str = "") -> UsageError:
    """An error that shows the line of the text around ``at``, with a caret below it."""
    begin = text.rfind("\n", 0, at) + 1
    line = text[begin:].partition("\n")[0]
    return UsageError(problem, where=f"the pipeline text\n    {line}\n    {' ' * (at - begin)}^", why=why, fix=fix)
