"""A part of a graph with given inputs and one output, and its evaluation in float64."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from bct_onnx.graph import protobuf, tensors
from bct_onnx.graph.neighbours import inputs_of, leads_out, op_types, outputs_of, producers, provided
from bct_onnx.graph.tensors import Array

Allowed = Callable[[ir.Node], bool]
"""Whether a node may lie inside a region."""

OPSET = 23
"""The opset that regions are read in: models are normalized to it before anything is recognised."""

# fmt: off
ELEMENTWISE = frozenset((
    "Abs", "Add", "Cast", "Clip", "Div", "Equal", "Erf", "Exp", "Greater", "GreaterOrEqual", "Identity", "IsNaN",
    "Less", "LessOrEqual", "Log", "Max", "Min", "Mul", "Neg", "Not", "Pow", "Reciprocal", "Sigmoid", "Softplus", "Sqrt",
    "Sub", "Tanh", "Where",
))
# fmt: on
"""Operators that treat every element alike."""


@dataclasses.dataclass(frozen=True)
class Region:
    """Nodes that compute one value from given values and constants.

    Attributes:
        inputs: The values that enter, constants apart.
        output: The value that leaves.
        nodes: Every node in between, each after the nodes it reads.
    """

    inputs: tuple[ir.Value, ...]
    output: ir.Value
    nodes: tuple[ir.Node, ...]

    @property
    def spelling(self) -> tuple[str, ...]:
        """The operators in order."""
        return op_types(self.nodes)

    @property
    def constants(self) -> tuple[ir.Value, ...]:
        """The constants that the nodes read, each once."""
        return tuple(dict.fromkeys(filter(is_constant, inputs_of(self.nodes))))

    @property
    def escapes(self) -> tuple[ir.Value, ...]:
        """Inner values that somebody outside of the region reads as well; casts of the input do not count."""
        inside = set(self.nodes)
        computed = (node for node in self.nodes if not (node.op_type == "Cast" and node.inputs[0] in self.inputs))
        made = outputs_of(computed)
        return tuple(value for value in made if leads_out(value, inside) and value is not self.output)

    def refusal(self, function: str, exact: bool, deviation: float) -> str:
        """Why a region that comes near to a function is not written as its operator; empty where it is."""
        if not exact:
            return f"nearest function is {function}, which differs by up to {deviation:.2g}"
        if self.escapes:
            return f"is {function}, but the intermediate value '{self.escapes[0].name}' is used elsewhere"
        return ""

    @property
    def gated(self) -> bool:
        """Whether some product or quotient has the input on both sides, as in ``x * f(x)``."""
        return any(node.op_type in ("Mul", "Div") and len(set(variables(node))) == 2 for node in self.nodes)

    @property
    def casts(self) -> bool:
        """Whether the type changes on the way."""
        return "Cast" in self.spelling

    def same_type(self) -> bool:
        """Whether the output is known to have the type of the (first) input."""
        if not self.casts:
            return True
        return self.inputs[0].dtype is not None and self.inputs[0].dtype == self.output.dtype


def is_constant(value: ir.Value) -> bool:
    """Whether the value is fixed: an initializer that no caller can override, or the output of a ``Constant`` node."""
    return not value.is_graph_input() and ir.convenience.get_const_tensor(value) is not None


def between(inputs: Sequence[ir.Value], output: ir.Value, allowed: Allowed, limit: int = 48) -> Region | None:
    """The region from ``inputs`` to ``output``; None if anything else enters, or a node inside is not ``allowed``.

    Args:
        inputs: The only values that may enter, constants apart. Each one must be reached.
        output: The value to start from, going upwards.
        allowed: Tells whether a node may be part of it.
        limit: Give up beyond this number of nodes.
    """
    producer = output.producer()
    if producer is None:
        return None
    order: list[ir.Node] = []
    seen: set[ir.Node] = set()
    reached: set[ir.Value] = set()

    def visit(node: ir.Node) -> bool:
        if node in seen:
            return True
        if len(seen) >= limit or node.graph is not producer.graph or not allowed(node):
            return False
        seen.add(node)
        for value in node.inputs:
            if value is None or (value not in inputs and is_constant(value)):
                continue
            if value in inputs:
                reached.add(value)
            elif (above := value.producer()) is None or not visit(above):
                return False
        order.append(node)
        return True

    if visit(producer) and len(reached) == len(set(inputs)):
        return Region(tuple(inputs), output, tuple(order))
    return None


def around(anchor: ir.Node, allowed: Allowed, depth: int = 10) -> Iterator[Region]:
    """Every region with one input that contains ``anchor``, from few nodes to many.

    Args:
        anchor: A node that must lie inside.
        allowed: Tells whether a node may be part of it.
        depth: How many nodes to look up and down from the anchor.
    """
    if not allowed(anchor):
        return
    below = _walk(anchor, allowed, depth, ir.Node.successors)
    above = _walk(anchor, allowed, depth, _makers)
    starts = list(itertools.filterfalse(is_constant, dict.fromkeys(inputs_of(above))))
    regions: list[Region] = []
    for node, start in itertools.product(below, starts):
        region = between((start,), node.outputs[0], allowed)
        if region is not None and anchor in region.nodes:
            regions.append(region)
    yield from sorted(regions, key=lambda region: len(region.nodes))


UNFIT = (ValueError, TypeError, IndexError, KeyError, RuntimeError)
"""What the reference evaluator raises, depending on the operator, where arrays or attributes do not fit a node."""


def evaluate(region: Region, arrays: Sequence[Array]) -> Array:
    """As `attempt`; a single NaN, which is no function's result, where the arrays do not fit the nodes."""
    try:
        return attempt(region, arrays)
    except UNFIT:
        return np.array(np.nan)


def attempt(region: Region, arrays: Sequence[Array]) -> Array:
    """Run the region with every floating-point type taken as float64, so that only its formula counts.

    Args:
        region: What to run.
        arrays: One array per input of the region.

    Raises:
        ValueError, TypeError, IndexError, KeyError, RuntimeError: They do not fit the nodes.
    """
    constants = region.constants
    given = (*region.inputs, *constants)
    labels = [f"i{index}" for index in range(len(given))]
    names = dict(zip(given, labels, strict=True))
    nodes = [_node(node, names) for node in region.nodes]
    graph = onnx.GraphProto(name="region", node=nodes)
    graph.input.extend(protobuf.undeclared(labels))
    graph.output.add(name=names[region.output])
    feeds = map(_double, (*arrays, *map(tensors.array, constants)))
    runner = _evaluator(graph.SerializeToString(deterministic=True))
    with np.errstate(all="ignore"):
        (result,) = runner.run(None, dict(zip(labels, feeds, strict=True)))
    return np.asarray(result)


def element(node: ir.Node) -> bool:
    """Allowed in a pointwise region: an elementwise operator whose constants are single numbers."""
    if node.domain or node.op_type not in ELEMENTWISE:
        return False
    constants = provided(map(ir.convenience.get_const_tensor, provided(node.inputs)))
    return all(constant.size == 1 for constant in constants)


def variables(node: ir.Node) -> tuple[ir.Value, ...]:
    """The inputs of a node that are not constants."""
    return tuple(itertools.filterfalse(is_constant, inputs_of([node])))


def _makers(node: ir.Node) -> list[ir.Node]:
    """The nodes that make what a node reads, constants apart."""
    return producers(variables(node))


def _walk(
    anchor: ir.Node, allowed: Allowed, depth: int, step: Callable[[ir.Node], Sequence[ir.Node]]
) -> tuple[ir.Node, ...]:
    """The nodes within ``depth`` steps, nearest first."""
    seen = {anchor: None}
    front = [anchor]
    for _ in range(depth):
        reached = itertools.chain.from_iterable(map(step, front))
        front = [node for node in dict.fromkeys(reached) if node not in seen and allowed(node)]
        seen.update(dict.fromkeys(front))
    return tuple(seen)


def _node(node: ir.Node, names: dict[ir.Value, str]) -> onnx.NodeProto:
    """The node under positional names, so that equal spellings share an evaluator; casts to float become float64."""
    for value in node.outputs:
        names[value] = f"v{len(names)}"
    positional = onnx.NodeProto(
        op_type=node.op_type,
        input=[names[value] if value is not None else "" for value in node.inputs],
        output=[names[value] for value in node.outputs],
    )
    positional.attribute.extend(map(ir.serde.serialize_attribute, node.attributes.values()))
    for attribute in positional.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and ir.DataType(attribute.i).is_floating_point():
            attribute.i = onnx.TensorProto.DOUBLE
    return positional


def _double(array: Array) -> Array:
    if np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16":
        return array.astype(np.float64)
    return array


@functools.lru_cache(maxsize=512)
def _evaluator(graph: bytes) -> ReferenceEvaluator:
    parsed = onnx.GraphProto.FromString(graph)
    model = onnx.ModelProto(ir_version=10, graph=parsed, opset_import=[onnx.OperatorSetIdProto(version=OPSET)])
    return ReferenceEvaluator(model)
