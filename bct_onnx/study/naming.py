"""Which tensor of a model a user means by a name, a pattern, or a part of either."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterator

import onnx_ir as ir

from bct_onnx.errors import UsageError
from bct_onnx.graph.tensors import FLOATS

LISTED = 12
"""Tensors that are named where a name fits several."""


def find(model: ir.Model, wanted: str) -> str:
    """The name of the one tensor that is meant.

    Raises:
        UsageError: There is none, or more than one.
    """
    known = {name: _names(value) for name, value in model.graph.initializers.items() if _is_parameter(value)}
    spelled = wanted.replace("/", ".")
    for test in (_is, _fits):
        found = [name for name, names in known.items() if any(test(each, spelled) for each in names)]
        matrices = [name for name in found if rank(model.graph.initializers[name]) == 2]
        for some in (found, matrices):
            if len(some) == 1:
                return some[0]
        if found:
            raise _several(wanted, {name: model.graph.initializers[name] for name in matrices or found})
    texts: dict[str, str] = {}
    for name, names in known.items():
        texts |= dict.fromkeys((name, *names), name)
    close = dict.fromkeys(texts[one] for one in difflib.get_close_matches(spelled, texts, n=5, cutoff=0.4))
    fix = "did you mean " + " or ".join(f"'{one}'" for one in close) + "?" if close else "see 'bct-onnx inspect --json'"
    raise UsageError(f"no float tensor is called '{wanted}'", where="NAME", fix=fix)


def _several(wanted: str, found: dict[str, ir.Value]) -> UsageError:
    listed = "".join(f"\n    {name}  {next(users_of(value)).name}" for name, value in list(found.items())[:LISTED])
    more = f"\n    and {len(found) - LISTED} more" if len(found) > LISTED else ""
    return UsageError(f"'{wanted}' fits {len(found)} tensors", where="NAME", fix=f"give one of them: {listed}{more}")


def _is(name: str, wanted: str) -> bool:
    return name == wanted


def _fits(name: str, wanted: str) -> bool:
    return wanted in name or fnmatch.fnmatchcase(name, wanted)


def _names(value: ir.Value) -> list[str]:
    """What a tensor may be called by, slashes as dots: by its own name or that of a node that uses it."""
    return [text.replace("/", ".") for text in (value.name, *(node.name for node in users_of(value))) if text]


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


def rank(value: ir.Value) -> int:
    """Number of axes of a constant."""
    return 0 if value.const_value is None else len(value.const_value.shape)
