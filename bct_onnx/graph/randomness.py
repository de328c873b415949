"""Operators whose results are drawn anew in every run: for comparing two models each gives its mean instead."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from bct_onnx.graph import functions, provenance, walk
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.known import dtype_of
from bct_onnx.graph.neighbours import operand


def is_random(model: ir.Model) -> bool:
    """Whether two runs of ``model`` on the same inputs may differ."""
    scopes: tuple[ir.Graph | ir.Function, ...] = (model.graph, *model.functions.values())
    return any(map(_mean, walk.nodes_in(scopes)))


def steadied(model: ir.Model) -> ir.Model:
    """A copy of ``model`` in which noise is its mean, a draw the likelier choice, and ``Dropout`` keeps everything."""
    copy = functions.inlined(model)
    with provenance.stamping(copy, "steadied"):  # for names that no other graph has
        for node in list(filter(_mean, copy.graph.all_nodes())):
            if node.op_type == "Dropout":
                node.replace_input_with(2, None)
                continue
            edit = Edit(node)
            mean = _mean(node)
            assert mean is not None
            edit.replace(node.outputs[0], mean(edit, node))
    return copy


Mean = Callable[[Edit, ir.Node], ir.Value]


def _mean(node: ir.Node) -> Mean | None:
    """What makes the mean of a node's results; None for one that draws nothing."""
    if node.domain or (node.op_type == "Dropout" and (len(node.inputs) < 3 or node.inputs[2] is None)):
        return None
    return _MEANS.get(node.op_type)


def _filled(edit: Edit, node: ir.Node) -> ir.Value:
    """RandomNormal, RandomUniform and their Like: one number everywhere."""
    low, high = _number(node, "low", 0.0), _number(node, "high", 1.0)
    mean = _number(node, "mean", 0.0) if "Normal" in node.op_type else (low + high) / 2
    like, sizes = operand(node, 0), node.attributes.get("shape")
    shape = edit.op("Shape", like) if sizes is None else edit.shape("sizes", sizes.as_ints())
    dtype = _dtype(node, dtype_of(like))
    number = edit.constant("mean", np.array(mean, np.float32))
    return edit.op("Expand", edit.op("Cast", number, to=dtype), shape)


def _likelier(edit: Edit, node: ir.Node) -> ir.Value:
    """Bernoulli: whether the probability is above a half."""
    (probability,) = node.inputs
    half = edit.op("CastLike", edit.constant("half", np.array(0.5, np.float32)), probability)
    return edit.op("Cast", edit.op("Greater", probability, half), to=_dtype(node, dtype_of(probability)))


def _likeliest(edit: Edit, node: ir.Node) -> ir.Value:
    """Multinomial: the class of the greatest logarithm of probability, as often as it draws."""
    number = node.attributes.get_int("sample_size", 1)
    best = edit.op("ArgMax", node.inputs[0], axis=1, keepdims=1)
    drawn = edit.op("Expand", best, edit.shape("number", [1, number]))
    return edit.op("Cast", drawn, to=_dtype(node, ir.DataType.INT32))


_MEANS: dict[str, Mean] = {
    **dict.fromkeys(("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"), _filled),
    "Bernoulli": _likelier,
    "Multinomial": _likeliest,
    "Dropout": _filled,  # not made: its training_mode is taken away
}


def _number(node: ir.Node, name: str, default: float) -> float:
    if name in node.attributes:
        return node.attributes[name].as_float()
    return default


def _dtype(node: ir.Node, default: ir.DataType | None) -> int:
    stated = node.attributes.get("dtype")
    if stated is not None:
        return stated.as_int()
    return int(default or node.outputs[0].dtype or ir.DataType.FLOAT)
