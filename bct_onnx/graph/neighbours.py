"""What makes a value, what a node reads, what uses a value: questions that any of these may have no answer to."""

from __future__ import annotations

import collections
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from typing import Any, TypeVar

import onnx_ir as ir

T = TypeVar("T")
H = TypeVar("H", bound=Hashable)


def reached(starts: Iterable[H], step: Callable[[H], Iterable[H]]) -> Iterator[H]:
    """What some nodes or values lead to by a step from each to others, they themselves first, the nearest next.

    Each comes once.

    >>> list(reached([6], lambda number: [number // 2, number // 3]))
    [6, 3, 2, 1, 0]
    """
    queue, known = collections.deque(starts), set[H]()
    while queue:
        current = queue.popleft()
        if current not in known:
            known.add(current)
            yield current
            queue += step(current)


def provided(operands: Iterable[T | None]) -> list[T]:
    """Those of some operands, or of what is known of them, that are there: optional ones may be left out."""
    return [operand for operand in operands if operand is not None]


def producer(value: ir.Value | None) -> ir.Node | None:
    """The node that makes a value; None for inputs, constants and no value."""
    if value is None:
        return None
    return value.producer()


def made_by(value: ir.Value | None, *op_types: str, domain: str = "") -> ir.Node | None:
    """The node that makes a value if it is one of some operators of a domain, or of all of it where none are named."""
    node = producer(value)
    if node is None or node.domain != domain or (op_types and node.op_type not in op_types):
        return None
    return node


def operand(node: ir.Node | None, index: int) -> ir.Value | None:
    """An input of a node; None where it is left out."""
    if node is None or index >= len(node.inputs):
        return None
    return node.inputs[index]


def operands(node: ir.Node | None, count: int) -> tuple[ir.Value | None, ...]:
    """The first ``count`` inputs of a node; None for each that is left out."""
    return tuple(operand(node, index) for index in range(count))


def operands_at(nodes: Iterable[ir.Node], index: int) -> list[ir.Value | None]:
    """An input of each of some nodes, the same of all; None where it is left out."""
    return [operand(node, index) for node in nodes]


def attributes_of(node: ir.Node) -> dict[str, Any]:
    """The values of a node's attributes by name."""
    return {name: attribute.value for name, attribute in node.attributes.items()}


def is_read(value: ir.Value) -> bool:
    """Whether anything reads a value: a node, or whoever runs the graph whose output it is."""
    return bool(value.uses()) or value.is_graph_output()


def is_read_by(value: ir.Value, *op_types: str) -> bool:
    """Whether a node of one of some operators reads a value."""
    return any(node.op_type in op_types for node in value.consumers())


def leads_out(value: ir.Value, nodes: Collection[ir.Node]) -> bool:
    """Whether a value is read outside of some nodes: by others, or as an output of its graph."""
    return value.is_graph_output() or any(node not in nodes for node in value.consumers())


def uses_outside(value: ir.Value, nodes: Collection[ir.Node]) -> list[tuple[ir.Node, int]]:
    """The nodes that read a value and are none of some, and which of their inputs it is."""
    return [(node, index) for node, index in value.uses() if node not in nodes]


def readers_of(value: ir.Value) -> list[ir.Node]:
    """The nodes that read a value, each as often as it does."""
    return [node for node, _ in value.uses()]


def op_types(nodes: Iterable[ir.Node]) -> tuple[str, ...]:
    """The operators of nodes, in order."""
    return tuple(node.op_type for node in nodes)


def of_types(nodes: Iterable[ir.Node], *op_types: str) -> list[ir.Node]:
    """Those of some nodes that are of some operators, in order."""
    return [node for node in nodes if node.op_type in op_types]


def producers(values: Iterable[ir.Value | None]) -> list[ir.Node]:
    """The nodes that make some values, where nodes do."""
    return provided(map(producer, values))


def only_use(value: ir.Value) -> tuple[ir.Node, int] | None:
    """The one user of a value that is used once and is no output of its graph, and which of its inputs that is."""
    uses = list(value.uses())
    if len(uses) == 1 and not value.is_graph_output():
        return uses[0]
    return None


def inputs_of(nodes: Iterable[ir.Node]) -> Iterator[ir.Value]:
    """What nodes read, one after the other; what they leave out is none of it, and graphs inside them are not."""
    for node in nodes:
        for value in node.inputs:
            if value is not None:
                yield value


def outputs_of(nodes: Iterable[ir.Node]) -> Iterator[ir.Value]:
    """What nodes make, one after the other."""
    for node in nodes:
        yield from node.outputs


def sources(value: ir.Value) -> list[ir.Value]:
    """What the node that makes a value reads; nothing where no node makes it."""
    return list(inputs_of(producers([value])))


def values_of(graph: ir.Graph) -> Iterator[ir.Value]:
    """All values of a graph: its inputs, its initializers and what its nodes make; those in graphs inside are not."""
    yield from graph.inputs
    yield from graph.initializers.values()
    yield from outputs_of(graph)


def read_by(*nodes: ir.Node) -> list[ir.Value]:
    """What nodes read, the graphs inside them included."""
    values: list[ir.Value] = []
    for node in nodes:
        values += inputs_of([node])
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                values += inputs_of(attribute.as_graph().all_nodes())
    return values
