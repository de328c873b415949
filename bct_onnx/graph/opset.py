"""Bring a model to another ONNX opset: one adapter per operator that changed, then a check of every node.

`best` chooses the opset: the highest, up to one that is wanted, where the oldest runtime that results are made for has
every operator of the model. Newer models are brought down where all nodes are the same there: after opset 23 operators
got types, attributes and inputs, which the check sees, and kept their meaning.

Adapters work on the graph itself, so weights stay where they are, and subgraphs, functions, names, dimension names and
metadata are kept. The list of changes is that of the ONNX operator changelog from opset 9 on; what has no adapter and
does not fit the newer schema is refused by name, never passed on silently.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import onnx
import onnx.defs
import onnx_ir as ir

from bct_onnx.errors import InputModelError
from bct_onnx.graph import kernels, walk
from bct_onnx.graph.neighbours import op_types
from bct_onnx.graph.opset_adapters import ADAPTERS, FIX
from bct_onnx.graph.propagation import quantizers_written
from bct_onnx.graph.schema import type_problem

OLDEST = 7
"""The oldest opset that ONNX Runtime promises to run; of older ones operators are taken that are the same in it."""

RANKS_NEEDED = 13
"""Below this opset the adapters need to know ranks and types, those of `Softmax` and `Clip` for example."""

LEAST = 21
"""The oldest opset that models are brought to: blocks of quantized weights came with it."""


def best(scopes: Sequence[ir.Graph | ir.Function], preferred: int, oldest: str = kernels.LOWEST) -> tuple[int, str]:
    """The opset to bring graphs and functions to, and why it is not the one that is preferred.

    The highest up to ``preferred``, from `LEAST` on, in which the ``oldest`` runtime has every operator, and what it
    writes itself. Where there is
    none, since they are newer than ``preferred`` and not the same there, the lowest above it in which `kernels.NEWEST`
    has them.
    Infer shapes before if a scope is newer than ``preferred``.
    """
    every = list(walk.nodes_in(scopes))
    nodes = [node for node in every if node.domain == ""]
    operators = set(op_types(nodes))
    if quantizers_written(every):
        operators.add("QuantizeLinear")
    newest = max(scope.opset_imports.get("", preferred) for scope in scopes)
    reason = ""
    for opset in (*range(preferred, LEAST - 1, -1), *range(preferred + 1, newest + 1)):
        runtime = oldest if opset <= preferred else kernels.NEWEST
        obstacle = _newer(nodes, opset) if newest > opset else ""
        if not obstacle and (missing := kernels.held_back(operators, opset, runtime)):
            obstacle = f"ONNX Runtime {runtime} has no kernel for {missing[0]} of opset {opset}"
        if not obstacle:
            return opset, reason
        reason = reason or obstacle
    return max(newest, preferred), reason


def imports_of(model: ir.Model) -> list[onnx.OperatorSetIdProto]:
    """The opsets of a model, as messages."""
    return list(itertools.starmap(onnx.helper.make_opsetid, model.opset_imports.items()))


def ir_version(opset: int) -> int:
    """The version of the file format that an opset came with, 10 at least: nodes have metadata from then on."""
    needed: int = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    return max(10, needed)


def lacks(model: ir.Model, op_type: str) -> str:
    """Why no ``op_type`` can be written into a model, for a refusal; empty if it can.

    >>> lacks(ir.from_onnx_text('<ir_version: 10, opset_import: ["": 21]> g (float x) => (float x) {}'), "Attention")
    'opset 21, at which the model stays, has no Attention'
    """
    version = model.opset_imports.get("", 0)
    if onnx.defs.has(op_type, version):
        return ""
    return f"opset {version}, at which the model stays, has no {op_type}"


def _newer(nodes: Sequence[ir.Node], opset: int) -> str:
    """What was no part of an opset yet; empty if there is no such node."""
    problems = ((node, _problem(node, opset) or _type_problem(node, opset)) for node in nodes)
    return next((f"{node.op_type} is newer than opset {opset}: {why}" for node, why in problems if why), "")


def bring(scope: ir.Graph | ir.Function, opset: int) -> int:
    """Bring the nodes of a graph or function (subgraphs included) to ``opset``; return how many nodes changed.

    Infer shapes before if it is older than `RANKS_NEEDED`.

    Raises:
        InputModelError: The scope is older than `OLDEST`, or an operator has no counterpart at ``opset``.
    """
    current = scope.opset_imports.get("", opset)
    if current < OLDEST and (changed_since := _changed_before_oldest(scope, current)):
        raise InputModelError(
            f"opset {current} is too old",
            why=f"{changed_since} was another operator below opset {OLDEST}",
            fix=FIX,
        )
    changed = 0
    for node in list(scope.all_nodes()) if current < opset else ():
        for (op_type, version), adapter in ADAPTERS.items():
            if node.op_type == op_type and node.domain == "" and current < version <= opset and node.graph is not None:
                changed += adapter(node)
    scope.opset_imports[""] = opset
    for node in scope.all_nodes() if current != opset else ():
        if node.domain == "":
            node.version = None
            changed += _without_defaults(node, opset)
            if why := _problem(node, opset):
                raise _refusal(node, current, opset, why)
    return changed


def _changed_before_oldest(scope: ir.Graph | ir.Function, current: int) -> str:
    """An operator that is another one in `OLDEST`; empty if there is none."""
    for operator in sorted({node.op_type for node in scope.all_nodes() if node.domain == ""}):
        if kernels.version(operator, current) != kernels.version(operator, OLDEST):
            return operator
    return ""


def _problem(node: ir.Node, opset: int) -> str:
    """Why a node is none of this opset; `onnx.checker` would need a copy of the whole model."""
    if kernels.is_own(node.op_type):
        return ""
    if not onnx.defs.has(node.op_type, opset, ""):
        return "there is no such operator"
    schema = onnx.defs.get_schema(node.op_type, opset)
    unknown = sorted(set(node.attributes) - set(schema.attributes) - _default_attributes(node))
    missing = [
        name for name, attribute in schema.attributes.items() if attribute.required and name not in node.attributes
    ]
    count = len(node.inputs)
    if schema.deprecated:
        return "the operator is deprecated"
    if unknown or missing:
        return f"attribute '{(unknown or missing)[0]}' is {'unknown' if unknown else 'missing'}"
    if not schema.min_input <= count <= schema.max_input or len(node.outputs) > schema.max_output:
        return f"{count} inputs and {len(node.outputs)} outputs do not fit its definition"
    return ""


def _type_problem(node: ir.Node, opset: int) -> str:
    """A type that the node has and its operator did not take yet."""
    if kernels.is_own(node.op_type):
        return ""
    if node.op_type == "Mod" and opset < 28 and not node.attributes.get_int("fmod", 0) and _is_float(node.inputs[0]):
        return "it has fmod=0 for floats from opset 28 on"
    return type_problem(node, onnx.defs.get_schema(node.op_type, opset))


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype is not None and value.dtype.is_floating_point()


def _default_attributes(node: ir.Node) -> set[str]:
    """Attributes that say what the newest version of the operator does without them."""
    declared = onnx.defs.get_schema(node.op_type).attributes
    defaults = set()
    for name, attribute in node.attributes.items():
        if name not in declared or attribute.is_ref():
            continue
        number = onnx.helper.get_attribute_value(ir.serde.serialize_attribute(attribute))
        if number == _default(declared[name].default_value):
            defaults.add(name)
    return defaults


def _default(attribute: onnx.AttributeProto) -> object:
    if attribute.type:
        return onnx.helper.get_attribute_value(attribute)
    return None


def _without_defaults(node: ir.Node, opset: int) -> bool:
    """Drop attributes that an older version of the operator does not know, where they say what it does."""
    if kernels.is_own(node.op_type) or not onnx.defs.has(node.op_type, opset, ""):
        return False
    unknown = _default_attributes(node) - set(onnx.defs.get_schema(node.op_type, opset).attributes)
    for name in unknown:
        del node.attributes[name]
    return bool(unknown)


def _refusal(node: ir.Node, current: int, opset: int, why: str) -> InputModelError:
    return InputModelError(
        f"operator {node.op_type} cannot be brought from opset {current} to {opset}",
        where=f"node '{node.name}'",
        why=why,
        fix=FIX,
    )
