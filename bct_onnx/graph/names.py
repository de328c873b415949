"""Names of the values of a graph."""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Protocol, TypeVar

import onnx_ir as ir

from bct_onnx.graph import walk
from bct_onnx.graph.neighbours import values_of

_known: ContextVar[dict[ir.Graph, set[str | None]] | None] = ContextVar("known_names", default=None)


class Named(Protocol):
    """What has a name: a value, a node, an input of a session, a pass."""

    @property
    def name(self) -> str | None:
        """Its name; None or empty where it has none."""


N = TypeVar("N", bound=Named)
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
W = TypeVar("W")


def names_of(things: Iterable[N]) -> list[str]:
    """What each of some things is called; empty for one without a name."""
    return [thing.name or "" for thing in things]


def entries(mapping: Mapping[str, V], names: Iterable[str]) -> dict[str, V]:
    """The entries of some names."""
    return {name: mapping[name] for name in names}


def map_values(function: Callable[[V], W], mapping: Mapping[K, V]) -> dict[K, W]:
    """A mapping with what a function makes of each value."""
    return {key: function(value) for key, value in mapping.items()}


def answers(question: Callable[[K], V | None], things: Iterable[K]) -> dict[K, V]:
    """What a function says of each of some things; those of which it says nothing are left out."""
    return {thing: answer for thing in things if (answer := question(thing)) is not None}


def stated(mapping: Mapping[K, V | None]) -> dict[K, V]:
    """The entries that have a value."""
    return {key: value for key, value in mapping.items() if value is not None}


def places_of(things: Iterable[K]) -> dict[K, int]:
    """Where each of some things stands among them, from 0; of equals the last."""
    return {thing: place for place, thing in enumerate(things)}


def values_named(values: Iterable[N], names: Iterable[str]) -> list[N]:
    """Those of some values that have these names, in the order of the names."""
    return list(map(by_name(values).__getitem__, names))


def without(things: Iterable[N], names: Container[str]) -> list[N]:
    """Those of some things that have none of these names, in order."""
    return [thing for thing in things if (thing.name or "") not in names]


def by_name(things: Iterable[N]) -> dict[str, N]:
    """Some things by their names; of namesakes the last."""
    return {thing.name or "": thing for thing in things}


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """Let `fresh_name` look through a graph once in this block, and again only where a name may be taken.

    A pass asks for hundreds of names, and to look through the whole graph for each takes a tenth of its time, more in a
    larger model. What nodes made in the block are called goes unseen; `provenance.stamping` renames such namesakes.
    """
    token = _known.set({})
    try:
        yield
    finally:
        _known.reset(token)


def fresh_name(graph: ir.Graph, name: str) -> str:
    """`name` if no value of `graph` or of its subgraphs has it, else the first free one of `name_1`, `name_2`, ..."""
    known = _known.get()
    if known is None:
        return _free(name, set(names(graph)))
    if graph not in known:
        known[graph] = set(names(graph))
    if name in graph.initializers:
        known[graph].update(graph.initializers)
        name = _free(name, known[graph])
    elif name in known[graph]:  # unless the value is gone that had it
        name = _free(name, set(names(graph)))
    for seen in known.values():
        seen.add(name)
    return name


def _free(name: str, taken: Container[str | None]) -> str:
    if name not in taken:
        return name
    return next(candidate for i in itertools.count(1) if (candidate := f"{name}_{i}") not in taken)


def names(graph: ir.Graph) -> Iterator[str | None]:
    """The names of all values of a graph and of its subgraphs; one that two subgraphs use comes twice."""
    yield from graph.initializers
    for value in values_of(graph):
        yield value.name
    for node in graph:
        for held in walk.inner(node):
            yield from names(held)


def any_fits(names: Iterable[str | None], patterns: Iterable[str]) -> bool:
    """Whether one of some names fits one of some patterns, ``*`` and the like of a shell's, capitals told apart."""
    return any(fnmatch.fnmatchcase(name or "", pattern) for name, pattern in itertools.product(names, patterns))
