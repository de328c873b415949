"""Bring a model to another ONNX opset: one adapter per operator that changed, then a check of every node.

`best` chooses the opset: the highest, up to one that is wanted, where the oldest runtime that results are made for has
every operator of the model. Newer models are brought down where all nodes are the same there: after opset 23 operators
got types, attributes and inputs, which the check sees, and kept their meaning.

Adapters work on the graph itself, so weights stay where they are, and subgraphs, functions, names, dimension names and
metadata are kept. The list of changes is that of the ONNX operator changelog from opset 9 on; what has no adapter and
does not fit the newer schema is refused by name, never passed on silently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.defs
import onnx_ir as ir

from bct_onnx.errors import InputModelError
from bct_onnx.graph import kernels, tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.schema import type_problem

OLDEST = 7
"""The oldest opset that ONNX Runtime promises to run; of older ones operators are taken that are the same in it."""

RANKS_NEEDED = 13
"""Below this opset the adapters need to know ranks and types, those of `Softmax` and `Clip` for example."""

LEAST = 21
"""The oldest opset that models are brought to: blocks of quantized weights came with it."""

_FIX = "export the model again with a newer opset"


def best(scopes: Sequence[ir.Graph | ir.Function], wanted: int) -> tuple[int, str]:
    """The opset to bring graphs and functions to, and why it is not the one that is wanted.

    The highest up to ``wanted``, from `LEAST` on, in which `kernels.LOWEST` has every operator. Where there is none,
    since they are newer than ``wanted`` and not the same there, the lowest above it in which `kernels.NEWEST` has them.
    Infer shapes before if a scope is newer than ``wanted``.
    """
    nodes = [node for scope in scopes for node in scope.all_nodes() if node.domain == ""]
    operators = {node.op_type for node in nodes}
    newest = max(scope.opset_imports.get("", wanted) for scope in scopes)
    reason = ""
    for opset in (*range(wanted, LEAST - 1, -1), *range(wanted + 1, newest + 1)):
        runtime = kernels.LOWEST if opset <= wanted else kernels.NEWEST
        found = _newer(nodes, opset) if newest > opset else ""
        if not found and (missing := kernels.held_back(operators, opset, runtime)):
            found = f"ONNX Runtime {runtime} has no kernel for {missing[0]} of opset {opset}"
        if not found:
            return opset, reason
        reason = reason or found
    return max(newest, wanted), reason


def lacks(model: ir.Model, op_type: str) -> str:
    """Why no ``op_type`` can be written into a model, for a refusal; empty if it can.

    >>> lacks(ir.from_onnx_text('<ir_version: 10, opset_import: ["": 21]> g (float x) => (float x) {}'), "Attention")
    'opset 21, at which the model stays, has no Attention'
    """
    version = model.opset_imports.get("", 0)
    return "" if onnx.defs.has(op_type, version) else f"opset {version}, at which the model stays, has no {op_type}"


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
            fix=_FIX,
        )
    changed = 0
    for node in list(scope.all_nodes()) if current < opset else ():
        for (op_type, version), adapter in _ADAPTERS.items():
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
    used = {node.op_type for node in scope.all_nodes() if node.domain == ""}
    return next((one for one in sorted(used) if kernels.version(one, current) != kernels.version(one, OLDEST)), "")


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
    given = sum(1 for _ in node.inputs)
    if schema.deprecated:
        return "the operator is deprecated"
    if unknown or missing:
        return f"attribute '{(unknown or missing)[0]}' is {'unknown' if unknown else 'missing'}"
    if not schema.min_input <= given <= schema.max_input or len(node.outputs) > schema.max_output:
        return f"{given} inputs and {len(node.outputs)} outputs do not fit its definition"
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
    given = {name: ir.to_proto(one) for name, one in node.attributes.items() if name in declared and not one.is_ref()}
    return {
        name
        for name, one in given.items()
        if onnx.helper.get_attribute_value(one) == _default(declared[name].default_value)
    }


def _default(attribute: onnx.AttributeProto) -> object:
    return onnx.helper.get_attribute_value(attribute) if attribute.type else None


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
        fix=_FIX,
    )


def _attribute_to_input(name: str, position: int, default: int | None = None) -> Callable[[ir.Node], bool]:
    """An adapter for an attribute that became an input."""

    def adapt(node: ir.Node) -> bool:
        attribute = node.attributes.pop(name, None)
        if attribute is None and default is None:
            return False
        if attribute is not None and attribute.is_ref():
            node.attributes[name] = attribute
            return False  # the check refuses it by name
        value = default if attribute is None else attribute.value
        floating = attribute is not None and attribute.type == ir.AttributeType.FLOAT
        dtype = (node.inputs[0].dtype if node.inputs[0] is not None else None) or ir.DataType.FLOAT
        tensor = ir.tensor(np.array(value, dtype.numpy() if floating else np.int64))
        node.resize_inputs(max(len(node.inputs), position + 1))
        node.replace_input_with(position, Edit(node).op("Constant", value=tensor, name=name))
        return True

    return adapt


def _one_element(adapt: Callable[[ir.Node], bool], name: str) -> Callable[[ir.Node], bool]:
    """As ``adapt``, for an integer attribute that became a list of one."""

    def wrapped(node: ir.Node) -> bool:
        attribute = node.attributes.get(name)
        if attribute is not None and not attribute.is_ref():
            node.attributes[name] = ir.AttrInt64s(name, [attribute.as_int()])
        return adapt(node)

    return wrapped


def _together(*adapters: Callable[[ir.Node], bool]) -> Callable[[ir.Node], bool]:
    return lambda node: sum(adapter(node) for adapter in adapters) > 0


def _softmax(node: ir.Node) -> bool:
    """Before opset 13 all axes from `axis` (default 1) on were normalized together, now `axis` (default -1) alone."""
    x = node.inputs[0]
    assert x is not None
    axis = node.attributes.get_int("axis", 1)
    rank = len(x.shape) if x.shape is not None else None
    if axis == -1 or (rank is not None and axis % rank == rank - 1):
        node.attributes["axis"] = ir.AttrInt64("axis", -1)
        return True
    edit = Edit(node)
    flat = edit.op(node.op_type, edit.op("Flatten", x, axis=axis), axis=-1)
    edit.replace(node.outputs[0], edit.op("Reshape", flat, edit.op("Shape", x)))
    return True


def _split(node: ir.Node) -> bool:
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        return False
    node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", len(node.outputs))
    return True


def _scatter(node: ir.Node) -> bool:
    edit = Edit(node)
    edit.replace(node.outputs[0], edit.op("ScatterElements", *node.inputs, axis=node.attributes.get_int("axis", 0)))
    return True


def _grid_sample(node: ir.Node) -> bool:
    renamed = {"bilinear": "linear", "bicubic": "cubic"}
    mode = node.attributes.get_string("mode", "bilinear")
    node.attributes["mode"] = ir.AttrString("mode", renamed.get(mode, mode))
    return True


def _roi_align(node: ir.Node) -> bool:
    name = "coordinate_transformation_mode"
    node.attributes.setdefault(name, ir.AttrString(name, "output_half_pixel"))
    return True


def _dropout_mask(node: ir.Node) -> bool:
    return _refuse_extra_outputs(node, "its mask changed its type in opset 10")


def _batch_norm(node: ir.Node) -> bool:
    return _refuse_extra_outputs(node, "it is in training mode")


def _refuse_extra_outputs(node: ir.Node, why: str) -> bool:
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        raise InputModelError(
            f"operator {node.op_type} cannot be brought up", where=f"node '{node.name}'", why=why, fix=_FIX
        )
    node.resize_outputs(1)
    return True


def _upsample_scales(node: ir.Node) -> bool:
    scales = node.attributes.pop("scales", None)
    if scales is None:
        return False
    tensor = ir.tensor(np.array(scales.as_floats(), np.float32))
    node.resize_inputs(2)
    node.replace_input_with(1, Edit(node).op("Constant", value=tensor, name="scales"))
    return True


def _upsample(node: ir.Node) -> bool:
    """It never made anything smaller, and took the sample to the left."""
    return _resized(node, "floor")


def _resize(node: ir.Node) -> bool:
    """Below opset 11 coordinates were divided by the scale; of two samples the left was taken, or the right to shrink.

    Linear interpolation does not ask which of them it is.
    """
    if node.attributes.get_string("mode", "nearest") != "nearest":
        return _resized(node, "floor")
    scales = tensors.small_constant(node.inputs[1])
    if scales is None or (scales.min() < 1 and scales.max() > 1):
        why = "below opset 11 its samples depend on whether it shrinks, which its scales do not say"
        raise InputModelError("operator Resize cannot be brought up", where=f"node '{node.name}'", why=why, fix=_FIX)
    return _resized(node, "ceil" if scales.min() < 1 else "floor")


def _resized(node: ir.Node, nearest: str) -> bool:
    x, scales = node.inputs
    edit = Edit(node)
    mode = node.attributes.get_string("mode", "nearest")
    options: dict[str, Any] = {"coordinate_transformation_mode": "asymmetric", "mode": mode, "nearest_mode": nearest}
    y = edit.op("Resize", x, None, scales, **options)
    edit.replace(node.outputs[0], y)
    return True


def _resize_by_one(node: ir.Node) -> bool:
    """Before opset 13 scales had to be there even where sizes are; now one of them is left out."""
    if len(node.inputs) < 4 or node.inputs[3] is None or node.inputs[2] is None:
        return False
    node.replace_input_with(2, None)
    return True


def _group_norm(node: ir.Node) -> bool:
    """Below opset 21 scale and bias were per group, from there on they are per channel."""
    x, groups = node.inputs[0], node.attributes.get_int("num_groups", 1)
    assert x is not None
    edit = Edit(node)
    whole = edit.op("Shape", x, start=1, end=2, name="channels")
    each = edit.op("Div", whole, edit.shape("groups", [groups]), name="channels_of_a_group")
    shape = edit.op("Concat", edit.shape("groups", [groups]), each, axis=0, name="shape")
    column = edit.shape("column", [-1, 1])
    for place in (1, 2):
        of_groups = edit.op("Reshape", node.inputs[place], column, name="of_groups")
        spread = edit.op("Expand", of_groups, shape, name="spread")
        node.replace_input_with(place, edit.op("Reshape", spread, whole, name="of_channels"))
    return True


def _scan(node: ir.Node) -> bool:
    why = "below opset 9 it ran over the sequences of a batch"
    raise InputModelError("operator Scan cannot be brought up", where=f"node '{node.name}'", why=why, fix=_FIX)


def _spatial(node: ir.Node) -> bool:
    """Statistics of every place apart had an attribute that is gone."""
    spatial = node.attributes.pop("spatial", None)
    if spatial is not None and spatial.as_int() != 1:
        node.attributes["spatial"] = spatial  # the check refuses it by name
        return False
    return spatial is not None


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")

_ADAPTERS: dict[tuple[str, int], Callable[[ir.Node], bool]] = {
    ("BatchNormalization", 9): _spatial,
    ("Scan", 9): _scan,
    ("Upsample", 9): _upsample_scales,
    ("Dropout", 10): _dropout_mask,
    ("Upsample", 10): _upsample,
    ("Slice", 10): _together(*(_attribute_to_input(name, i) for i, name in enumerate(("starts", "ends", "axes"), 1))),
    ("TopK", 10): _one_element(_attribute_to_input("k", 1), "k"),
    ("Clip", 11): _together(_attribute_to_input("min", 1), _attribute_to_input("max", 2)),
    ("Pad", 11): _together(_attribute_to_input("pads", 1), _attribute_to_input("value", 2)),
    ("Resize", 11): _resize,
    ("Scatter", 11): _scatter,
    ("Dropout", 12): _attribute_to_input("ratio", 1),
    ("Softmax", 13): _softmax,
    ("LogSoftmax", 13): _softmax,
    ("Hardmax", 13): _softmax,
    ("Split", 13): _attribute_to_input("split", 1),
    ("Squeeze", 13): _attribute_to_input("axes", 1),
    ("Unsqueeze", 13): _attribute_to_input("axes", 1),
    ("ReduceSum", 13): _attribute_to_input("axes", 1),
    ("Resize", 13): _resize_by_one,
    ("BatchNormalization", 14): _batch_norm,
    ("RoiAlign", 16): _roi_align,
    **{(f"Reduce{kind}", 18): _attribute_to_input("axes", 1) for kind in _REDUCTIONS},
    ("Split", 18): _split,
    ("DFT", 20): _attribute_to_input("axis", 2, default=1),
    ("GridSample", 20): _grid_sample,
    ("GroupNormalization", 21): _group_norm,
}
"""By operator and the opset in which it changed, in rising order; an adapter says whether it changed the node."""
