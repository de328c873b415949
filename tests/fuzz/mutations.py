"""What can be wrong or odd with a model: the list of mutations, and picking where they strike.

A mutation changes a message in place, drawing from a random generator. The files beside this one register theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import onnx

from bct_onnx.graph.protobuf import subgraphs

Rng = np.random.Generator
Body = onnx.GraphProto | onnx.FunctionProto
Mutation = Callable[[onnx.ModelProto, Rng], None]
T = TypeVar("T")

MUTATIONS: dict[str, Mutation] = {}
"""Every mutation by its name."""

SIZES = (0, 1, -1, 2, 3, 7, 64, 65, 2**31 - 1, 2**31, -(2**31), 2**40, 2**62, 2**63 - 1, -(2**63))
WORDS = ("", " ", "x", "y", "w", "/", "../../x", "a b", "ä", "\n", '"', "\\", "'", "%s", "{}", "0", "[bold]", "n" * 500)


class Impossible(Exception):
    """The model has nothing that this mutation could change."""


def mutation(change: Mutation) -> Mutation:
    """Register a mutation under its function's name."""
    MUTATIONS[change.__name__] = change
    return change


def pick(items: Sequence[T], rng: Rng) -> T:
    """One of ``items``.

    Raises:
        Impossible: There are none.
    """
    if not items:
        raise Impossible
    return items[int(rng.integers(len(items)))]


def chance(rng: Rng, odds: float = 0.5) -> bool:
    """True that often."""
    return bool(rng.random() < odds)


def graphs(proto: onnx.ModelProto) -> list[onnx.GraphProto]:
    """The main graph and every subgraph; the main graph as often as all others, as most passes look there."""
    inner = [*_inner(proto.graph.node), *(graph for function in proto.functions for graph in _inner(function.node))]
    return [*[proto.graph] * max(1, len(inner)), *inner]


def body(proto: onnx.ModelProto, rng: Rng) -> Body:
    """A graph, subgraph or function with nodes."""
    found: list[Body] = [one for one in (*graphs(proto), *proto.functions) if one.node]
    return pick(found, rng)


def node(proto: onnx.ModelProto, rng: Rng) -> onnx.NodeProto:
    """Any node."""
    nodes: Sequence[onnx.NodeProto] = body(proto, rng).node
    return pick(nodes, rng)


def names(of: Body) -> list[str]:
    """Every name that a node of ``of`` could read without looking into graphs around it."""
    made = [name for node in of.node for name in node.output if name]
    if isinstance(of, onnx.FunctionProto):
        return [*of.input, *made]
    return [*(info.name for info in of.input), *(tensor.name for tensor in of.initializer), *made]


def _inner(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for one in nodes:
        for graph in subgraphs(one.attribute):
            yield graph
            yield from _inner(graph.node)
