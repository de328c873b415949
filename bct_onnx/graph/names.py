"""Names of the values of a graph."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Iterable, Iterator

import onnx_ir as ir

from bct_onnx.graph import walk


def fresh_name(graph: ir.Graph, name: str) -> str:
    """`name` if no value of `graph` or of its subgraphs has it, else the first free one of `name_1`, `name_2`, ..."""
    taken = set(names(graph))
    if name not in taken:
        return name
    return next(candidate for i in itertools.count(1) if (candidate := f"{name}_{i}") not in taken)


def names(graph: ir.Graph) -> Iterator[str | None]:
    """The names of all values of a graph and of its subgraphs; one that two subgraphs use comes twice."""
    yield from graph.initializers
    yield from (value.name for value in graph.inputs)
    for node in graph:
        for value in node.outputs:
            yield value.name
        for held in walk.inner(node):
            yield from names(held)


def any_fits(names: Iterable[str | None], patterns: Iterable[str]) -> bool:
    """Whether one of some names fits one of some patterns, ``*`` and the like of a shell's, capitals told apart."""
    return any(fnmatch.fnmatchcase(name or "", pattern) for name, pattern in itertools.product(names, patterns))
