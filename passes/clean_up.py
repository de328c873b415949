"""What has no effect goes."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import common

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from bct_onnx.graph import dims, duplicates
from bct_onnx.graph.identity import bypass, unchanged
from bct_onnx.graph.names import names_of
from bct_onnx.graph.neighbours import op_types
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
        source = unchanged(node)
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


def _constants_once(model: ir.Model) -> Iterator[Site]:
    pairs = duplicates.merge(model.graph)
    if pairs:
        yield Site(f"{len(pairs)} constants", tuple(name for name, _ in pairs), "equal to others, stored once")


def _nodes_once(model: ir.Model) -> Iterator[Site]:
    before = _operators(model)
    declared = [(output.type, output.shape) for output in model.graph.outputs]
    common.CommonSubexpressionEliminationPass()(model)
    for output, (kind, shape) in zip(model.graph.outputs, declared, strict=True):
        # The node that stays may be one of which nothing was declared.
        output.type, output.shape = output.type or kind, output.shape or shape
    repeated = before - _operators(model)
    if repeated:
        yield Site(f"{repeated.total()} nodes", tuple(repeated), "equal to others, computed once")


def _without_dead(model: ir.Model) -> Iterator[Site]:
    nodes, weights = _operators(model), set(names_of(model.graph.initializers.values()))
    functions = set(names_of(model.functions.values()))
    remove_unused_nodes(model)
    common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]  # its constructor has no annotations
    common.RemoveUnusedOpsetsPass()(model)
    dead = nodes - _operators(model)
    gone = [
        *(f"{count} {operator}" for operator, count in dead.items()),
        *sorted(weights - set(names_of(model.graph.initializers.values()))),
        *sorted(functions - set(names_of(model.functions.values()))),
    ]
    if gone:
        yield Site(f"{len(gone)} nodes, constants or functions", tuple(gone), "unused, removed")


def _operators(model: ir.Model) -> collections.Counter[str]:
    return collections.Counter(op_types(model.graph.all_nodes()))
