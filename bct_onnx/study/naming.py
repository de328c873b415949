"""Which tensor of a model a user means by a name, a pattern, or a part of either."""

from __future__ import annotations

import difflib
import fnmatch
import operator
from collections.abc import Iterator

import onnx_ir as ir

from bct_onnx.errors import UsageError
from bct_onnx.graph.known import rank_of
from bct_onnx.graph.names import by_name, map_values, names_of
from bct_onnx.graph.tensors import FLOATS

LISTED = 12
"""Tensors that are named where a name fits several."""


def find(model: ir.Model, text: str) -> str:
    """The name of the one tensor that is meant.

    Raises:
        UsageError: There is none, or more than one.
    """
    parameters = by_name(filter(_is_parameter, model.graph.initializers.values()))
    known = map_values(_names, parameters)
    dotted = text.replace("/", ".")
    for test in (operator.eq, _fits):
        fitting = {name: parameters[name] for name, names in known.items() if any(test(each, dotted) for each in names)}
        matrices = by_name(value for value in fitting.values() if rank_of(value) == 2)
        for candidates in (fitting, matrices):
            if len(candidates) == 1:
                return next(iter(candidates))
        if fitting:
            raise _several(text, matrices or fitting)
    texts: dict[str, str] = {}
    for name, names in known.items():
        texts |= dict.fromkeys((name, *names), name)
    matches = difflib.get_close_matches(dotted, texts, n=5, cutoff=0.4)
    close = dict.fromkeys(texts[match] for match in matches)
    fix = "see 'bct-onnx inspect --json'"
    if close:
        fix = "did you mean " + " or ".join(f"'{name}'" for name in close) + "?"
    raise UsageError(f"no float tensor is called '{text}'", where="NAME", fix=fix)


def _several(text: str, fitting: dict[str, ir.Value]) -> UsageError:
    listed = "".join(f"\n    {name}  {next(users_of(value)).name}" for name, value in list(fitting.items())[:LISTED])
    others = f"\n    and {len(fitting) - LISTED} more" if len(fitting) > LISTED else ""
    return UsageError(f"'{text}' fits {len(fitting)} tensors", where="NAME", fix=f"give one of them: {listed}{others}")


def _fits(name: str, text: str) -> bool:
    return text in name or fnmatch.fnmatchcase(name, text)


def _names(value: ir.Value) -> list[str]:
    """What a tensor may be called by, slashes as dots: by its own name or that of a node that uses it."""
    return [text.replace("/", ".") for text in (value.name, *names_of(users_of(value))) if text]


def users_of(value: ir.Value) -> Iterator[ir.Node]:
    """The nodes that use a tensor, as it is or transposed."""
    for use in value.uses():
        if use.node.op_type == "Transpose":
            yield from users_of(use.node.outputs[0])
        else:
            yield use.node


def _is_parameter(value: ir.Value) -> bool:
    tensor = value.const_value
    return tensor is not None and tensor.dtype in FLOATS and tensor.size > 1 and bool(value.uses())
