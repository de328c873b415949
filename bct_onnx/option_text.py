"""Values of options as text and back: `option_text` and `read_option` are inverse."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import typing
from collections.abc import Mapping
from typing import Any

from bct_onnx.errors import UsageError
from bct_onnx.graph.names import names_of

PLAIN = re.compile(r"[^\s,{}\"]*")
"""A value that needs no quotes in a pipeline text."""


def fields_of(kind: type[Any]) -> dict[str, str]:
    """The fields of a pass, or of another dataclass, by the names of the options that they are: with hyphens."""
    return {field.name.replace("_", "-"): field.name for field in dataclasses.fields(kind)}


def option_text(value: object) -> str:
    """Write a value as pipeline text: ``true``, ``32``, ``64x64``, ``two-level``, ``a|b``, ``"my file"``.

    >>> option_text(True), option_text((64, 64)), option_text(("lm_head", "classifier")), option_text("my file")
    ('true', '64x64', 'lm_head|classifier', '"my file"')
    """
    text = _unquoted(value)
    if PLAIN.fullmatch(text):
        return text
    return json.dumps(text, ensure_ascii=False)


def _unquoted(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, list | tuple):
        return str(value)
    numbers = bool(value) and all(isinstance(part, int) for part in value)
    return ("x" if numbers else "|").join(map(str, value))


def read_option(text: str, kind: object) -> object:
    """Read one option value of the declared type (inverse of `option_text`).

    >>> read_option("64x64", int | tuple[int, int]), read_option("false", bool), read_option("a|b", tuple[str, ...])
    ((64, 64), False, ('a', 'b'))
    """
    if kind is bool:
        if text not in ("true", "false"):
            raise ValueError("expected true or false")
        return text == "true"
    if kind is int or kind is float:
        return typing.cast(type, kind)(text)
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        if arguments[0] is int:
            parts = tuple(map(int, text.split("x")))
            if arguments[-1] is not Ellipsis and len(parts) != len(arguments):
                raise ValueError(f"expected {len(arguments)} numbers joined by 'x'")
            return parts
        return tuple(filter(None, text.split("|")))
    if arguments and typing.get_origin(kind) is typing.Literal:
        if text not in arguments:
            raise ValueError("expected one of " + ", ".join(map(option_text, arguments)))
        return text
    for argument in arguments:
        try:
            return read_option(text, argument)
        except ValueError:
            continue
    if arguments:
        raise ValueError(f"expected {kind}")
    return text


@functools.cache
def option_types(kind: type) -> Mapping[str, object]:
    """The declared types of the options of a pass, by field; ``kind`` is its class."""
    return typing.get_type_hints(kind)


def read_options(kind: type, texts: Mapping[str, object], where: str = "") -> dict[str, object]:
    """Check option values that come from elsewhere than a pipeline text.

    Args:
        kind: The class of the pass.
        texts: Texts, numbers, truth values, paths or lists of such, by the field of the option.
        where: What to name in the error.

    Raises:
        UsageError: The pass has no such option, or a value is not of the declared type.
    """
    types = option_types(kind)
    names = names_of(dataclasses.fields(kind))
    options: dict[str, object] = {}
    for name, value in texts.items():
        if name not in names:
            raise UsageError(f"there is no option '{name}'", where=where, fix="known: " + ", ".join(names))
        text = _unquoted(value)
        try:
            options[name] = read_option(text, types[name])
        except ValueError as error:
            problem = f"'{text}' is no value for {name.replace('_', '-')}: {error}"
            raise UsageError(problem, where=where) from error
    return options
