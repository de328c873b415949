"""How single operators are brought to the opset in which they changed: one adapter for each change.

The list of changes is that of the ONNX operator changelog from opset 7 on; a change without an adapter here needs none,
as the node means the same on both sides of it, or is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from bct_onnx.errors import InputModelError
from bct_onnx.graph import tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.known import dtype_of, is_last_axis, rank_of
from bct_onnx.graph.neighbours import is_read

FIX = "export the model again with a newer opset"


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
        dtype = dtype_of(node.inputs[0]) or ir.DataType.FLOAT
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
    if is_last_axis(axis, x):
        node.attributes["axis"] = ir.AttrInt64("axis", -1)
        return True
    rank = rank_of(x)
    if rank is not None and not -rank <= axis <= rank:
        raise InputModelError(
            f"operator {node.op_type} cannot be brought up",
            where=f"node '{node.name}'",
            why=f"its axis is {axis}, and its input has {rank} axes",
            fix=FIX,
        )
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
    if any(map(is_read, node.outputs[1:])):
        raise InputModelError(
            f"operator {node.op_type} cannot be brought up", where=f"node '{node.name}'", why=why, fix=FIX
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
        raise InputModelError("operator Resize cannot be brought up", where=f"node '{node.name}'", why=why, fix=FIX)
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
    raise InputModelError("operator Scan cannot be brought up", where=f"node '{node.name}'", why=why, fix=FIX)


def _spatial(node: ir.Node) -> bool:
    """Statistics of every place apart had an attribute that is gone."""
    spatial = node.attributes.pop("spatial", None)
    if spatial is not None and spatial.as_int() != 1:
        node.attributes["spatial"] = spatial  # the check refuses it by name
        return False
    return spatial is not None


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")

ADAPTERS: dict[tuple[str, int], Callable[[ir.Node], bool]] = {
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
