"""Raise a model to a newer ONNX opset: one adapter per operator that changed, then a check of every node.

Adapters work on the graph itself, so weights stay where they are, and subgraphs, functions, names, dimension names and
metadata are kept. The list of changes is that of the ONNX operator changelog from opset 9 on; what has no adapter and
does not fit the newer schema is refused by name, never passed on silently.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.defs
import onnx_ir as ir

from bct_onnx.errors import InputModelError
from bct_onnx.graph.edit import Edit

OLDEST = 9
"""Older models are refused: too many operators changed silently before."""

RANKS_NEEDED = 13
"""Below this opset the adapters need to know ranks and types, those of `Softmax` and `Clip` for example."""

OF_ONNXRUNTIME = frozenset(("SimplifiedLayerNormalization",))
"""Operators that ONNX does not have and ONNX Runtime registers in ONNX's domain: the same at every opset."""

_FIX = "export the model again with a newer opset"


def raise_opset(scope: ir.Graph | ir.Function, opset: int) -> int:
    """Bring the nodes of a graph or function (subgraphs included) up to ``opset``; return how many nodes changed.

    A scope of ``opset`` or newer is left alone. Infer shapes before if it is older than `RANKS_NEEDED`.

    Raises:
        InputModelError: The scope is older than `OLDEST`, or an operator has no counterpart at ``opset``.
    """
    current = scope.opset_imports.get("", opset)
    if current >= opset:
        return 0
    if current < OLDEST:
        raise InputModelError(
            f"opset {current} is too old", why=f"opset {OLDEST} to {opset} can be brought up", fix=_FIX
        )
    changed = 0
    for node in list(scope.all_nodes()):
        for (op_type, version), adapter in _ADAPTERS.items():
            if node.op_type == op_type and node.domain == "" and current < version <= opset and node.graph is not None:
                changed += adapter(node)
    scope.opset_imports[""] = opset
    for node in scope.all_nodes():
        if node.domain == "" and node.op_type not in OF_ONNXRUNTIME:
            node.version = None
            _check(node, current, opset)
    return changed


def _check(node: ir.Node, current: int, opset: int) -> None:
    """Compare a node with the schema of its operator; `onnx.checker` would need a copy of the whole model."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        raise _refusal(node, current, opset, "there is no such operator") from None
    unknown = sorted(set(node.attributes) - set(schema.attributes))
    missing = [
        name for name, attribute in schema.attributes.items() if attribute.required and name not in node.attributes
    ]
    given = sum(1 for _ in node.inputs)
    if schema.deprecated:
        raise _refusal(node, current, opset, "the operator is deprecated")
    if unknown or missing:
        raise _refusal(
            node, current, opset, f"attribute '{(unknown or missing)[0]}' is {'unknown' if unknown else 'missing'}"
        )
    if not schema.min_input <= given <= schema.max_input or len(node.outputs) > schema.max_output:
        raise _refusal(
            node, current, opset, f"{given} inputs and {len(node.outputs)} outputs do not fit its definition"
        )


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


def _resize(node: ir.Node) -> bool:
    why = "its coordinates were computed differently below opset 11"
    raise InputModelError("operator Resize cannot be brought up", where=f"node '{node.name}'", why=why, fix=_FIX)


def _group_norm(node: ir.Node) -> bool:
    why = "its scale is per group below opset 21, per channel from there on"
    raise InputModelError(
        "operator GroupNormalization cannot be brought up", where=f"node '{node.name}'", why=why, fix=_FIX
    )


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")

_ADAPTERS: dict[tuple[str, int], Callable[[ir.Node], bool]] = {
    ("Dropout", 10): _dropout_mask,
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
    ("BatchNormalization", 14): _batch_norm,
    ("RoiAlign", 16): _roi_align,
    **{(f"Reduce{kind}", 18): _attribute_to_input("axes", 1) for kind in _REDUCTIONS},
    ("Split", 18): _split,
    ("DFT", 20): _attribute_to_input("axis", 2, default=1),
    ("GridSample", 20): _grid_sample,
    ("GroupNormalization", 21): _group_norm,
}
"""By operator and the opset in which it changed, in rising order; an adapter says whether it changed the node."""
