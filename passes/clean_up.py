"""What has no effect goes."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import common

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from bct_onnx.graph import dims, duplicates, tensors
from bct_onnx.graph.identity import bypass
from bct_onnx.graph.unused import remove_unused_nodes


@dataclasses.dataclass(frozen=True)
class CleanUp(Pass):
    """Remove what has no effect: dead and repeated nodes, unused weights, operators that return their input.

    Why:
        Every rewrite leaves something behind. Weights that nobody uses any more are the worst of it: with them a
        4-bit model can be larger than the original.

    Before/after:
        ``Identity(x)``, ``Dropout(x)``, ``Cast`` to the type of ``x``, ``Reshape``, ``Expand`` and ``Slice`` to the
        shape of ``x``, a ``Transpose`` that moves nothing and one that undoes another become ``x``. Of nodes with equal
        inputs and attributes one is left, of equal constants too. Nodes, initializers, functions and operator sets
        without a use are removed.

    Declines:
        An operator that returns its input where both are inputs or outputs of the graph.

    Options:
        None.

    Promise:
        Exact. Names of inputs and outputs are kept.

    >>> model = ir.from_onnx_text('''<ir_version: 10, opset_import: ["": 23]> g (float[n] x) => (float[n] y)
    ...     { c = Cast <to = 1> (x)  i = Identity (c)  y = Neg (i)  dead = Exp (i) }''')
    >>> [node.op_type for node in CleanUp()(model).model.graph]
    ['Neg']
    """

    name: ClassVar[str] = "clean-up"
    stage: ClassVar[Stage] = Stage.TIDY

    def apply(self, model: ir.Model) -> Applied:
        """Remove no-ops first: they hide what is repeated, and that hides what is dead."""
        model.graph.sort()
        sites, declined = _without_no_ops(model)
        sites += [*_constants_once(model), *_nodes_once(model), *_without_dead(model)]
        return Applied(model, sites, declined)


def _without_no_ops(model: ir.Model) -> tuple[list[Site], list[Declined]]:
    sites, declined = [], []
    tracker = dims.Tracker()
    for node in list(model.graph.all_nodes()):
        tracker.visit(node)
        source = _source(node)
        if source is None:
            continue
        before: tuple[str, ...] = (node.op_type,)
        former = node.inputs[0]
        if source is not former:  # undoes the node before it
            before = ("Transpose", "Transpose")
            node.replace_input_with(0, source)
        if bypass(node):
            sites.append(Site(source.name or "", before, "returns its input"))
        else:
            node.replace_input_with(0, former)
            declined.append(Declined(node.name or node.op_type, "returns its input, but that is no value of its own"))
    return sites, declined


def _source(node: ir.Node) -> ir.Value | None:
    """The value that the only output of ``node`` always equals."""
    x = node.inputs[0] if node.inputs else None
    if x is None or node.domain != "" or any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return None
    if node.op_type == "Transpose":
        return _untransposed(node, x)
    check = _NO_OPS.get(node.op_type)
    return x if check is not None and check(node) else None


def _untransposed(node: ir.Node, x: ir.Value) -> ir.Value | None:
    perm = list(node.attributes.get_ints("perm") or ())
    if perm and perm == sorted(perm):
        return x
    inner = x.producer()
    if inner is None or inner.op_type != "Transpose" or inner.domain != "":
        return None
    first = list(inner.attributes.get_ints("perm") or ())
    if not perm and not first:
        return inner.inputs[0]
    if len(perm) != len(first):
        return None
    return inner.inputs[0] if [first[axis] for axis in perm] == sorted(perm) else None


def _keeps_shape(node: ir.Node) -> bool:
    before, after = dims.of(node.inputs[0]), dims.of(node.outputs[0])
    return before is not None and before == after and None not in before


def _whole_slice(node: ir.Node) -> bool:
    steps = tensors.small_constant(node.inputs[4]) if len(node.inputs) > 4 else None
    forward = len(node.inputs) <= 4 or (steps is not None and bool((steps > 0).all()))
    return forward and _keeps_shape(node)


def _same_type(node: ir.Node) -> bool:
    x = node.inputs[0]
    return x is not None and x.dtype is not None and x.dtype.value == node.attributes["to"].as_int()


def _inactive(node: ir.Node) -> bool:
    """Dropout drops nothing but in training mode."""
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is None:
        return True
    mode = tensors.small_constant(training)
    return mode is not None and not mode.any()


_NO_OPS: dict[str, Callable[[ir.Node], bool]] = {
    "Identity": lambda node: True,
    "Dropout": _inactive,
    "Cast": _same_type,
    "Reshape": _keeps_shape,
    "Expand": _keeps_shape,
    "Slice": _whole_slice,
    "Concat": lambda node: len(node.inputs) == 1,
}


def _constants_once(model: ir.Model) -> Iterator[Site]:
    pairs = duplicates.merge(model.graph)
    if pairs:
        yield Site(f"{len(pairs)} constants", tuple(name for name, _ in pairs), "equal to others, stored once")


def _nodes_once(model: ir.Model) -> Iterator[Site]:
    before = _operators(model)
    common.CommonSubexpressionEliminationPass()(model)
    repeated = before - _operators(model)
    if repeated:
        yield Site(f"{repeated.total()} nodes", tuple(repeated), "equal to others, computed once")


def _without_dead(model: ir.Model) -> Iterator[Site]:
    nodes, weights = _operators(model), {value.name or "" for value in model.graph.initializers.values()}
    functions = {function.name for function in model.functions.values()}
    remove_unused_nodes(model)
    common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]  # its constructor has no annotations
    common.RemoveUnusedOpsetsPass()(model)
    dead = nodes - _operators(model)
    gone = [
        *(f"{count} {operator}" for operator, count in dead.items()),
        *sorted(weights - {value.name or "" for value in model.graph.initializers.values()}),
        *sorted(functions - {function.name for function in model.functions.values()}),
    ]
    if gone:
        yield Site(f"{len(gone)} nodes, constants or functions", tuple(gone), "unused, removed")


def _operators(model: ir.Model) -> collections.Counter[str]:
    return collections.Counter(node.op_type for node in model.graph.all_nodes())
