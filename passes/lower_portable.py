"""Write what few runtimes read alike in operators that all of them do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from bct_onnx.base import Applied, Declined, Pass, Site, Stage
from bct_onnx.graph import opset, shapes
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.functions import inlining
from bct_onnx.graph.known import is_last_axis, size_of
from bct_onnx.graph.neighbours import operands


@dataclasses.dataclass(frozen=True)
class LowerPortable(Pass):
    """Write codes with a scale per block or token in rounding and clipping, and put functions into the graph.

    Why:
        A file is portable where what reads it computes the same. OpenVINO has no ``QuantizeLinear`` in blocks of
        dynamic shapes, and calls no model-local functions; it is not alone.

    Before/after:
        ``QuantizeLinear<block_size>(x, scale, zero)`` becomes ``Cast(Clip(Round(x / scale) + zero))``,
        ``DequantizeLinear<block_size>`` of what is no constant ``(Cast(codes) - zero) * scale``. Functions of
        ``ai.bct`` become their operators.

    Declines:
        Blocks along another axis than the last, and a last block that is shorter: only models that came with codes have
        these.

    Options:
        functions: ``inline``, or ``keep`` for files to look at: a box per integer function.

    Promise:
        Exact.

    >>> model = ir.from_onnx_text('''<ir_version: 10, opset_import: ["": 21]>
    ...     g (float[n,4] x, float[n,1] s) => (int8[n,4] y)
    ...     { y = QuantizeLinear <axis = -1, block_size = 4, output_dtype = 3> (x, s) }''')
    >>> [node.op_type for node in LowerPortable()(model).model.graph]
    ['Div', 'Round', 'Clip', 'Cast']
    """

    name: ClassVar[str] = "lower-portable"
    stage: ClassVar[Stage] = Stage.LOWER

    functions: Literal["inline", "keep"] = "inline"

    def apply(self, model: ir.Model) -> Applied:
        """Spell quantizers, then inline."""
        sites: list[Site] = []
        declined: list[Declined] = []
        shapes.infer(model)  # the type of zero points says what codes are clipped to
        for node in list(model.graph.all_nodes()):
            block = node.attributes.get_int("block_size", 0)
            if node.domain or not block or _is_weight(node):
                continue
            if reason := _refusal(node, block):
                declined.append(Declined(node.name or node.op_type, reason))
            elif node.op_type == "QuantizeLinear":
                sites.append(_quantize(node, block))
            elif node.op_type == "DequantizeLinear":
                sites.append(_decode(node, block))
        if self.functions == "inline":
            sites += _inlined(model)
        return Applied(model, sites, declined)


def _is_weight(node: ir.Node) -> bool:
    x = node.inputs[0]
    return x is None or x.is_initializer()


def _refusal(node: ir.Node, block: int) -> str:
    """Why a quantizer with blocks stays as it is; empty where it does not."""
    x, scale = node.inputs[0], node.inputs[1]
    if not is_last_axis(node.attributes.get_int("axis", 1), x):
        return "its blocks lie along another axis than the last"
    columns = size_of(x, -1)
    if size_of(scale, -1) == 1 or (columns is not None and columns % block == 0):
        return ""
    return f"blocks of {block} are not known to divide its columns"


def _quantize(node: ir.Node, block: int) -> Site:
    """Divide in the type that comes, and round to even, as the operator does; float16 holds no codes beyond 2048."""
    x, scale, zero = operands(node, 3)
    kind = ir.DataType(node.attributes.get_int("output_dtype", 0) or ir.DataType.UINT8)
    if zero is not None:
        assert zero.dtype is not None, "the type of zero points can be inferred"
        kind = zero.dtype
    edit = Edit(node)
    parts, steps, whole = _blocks(edit, node, x, scale, block)
    ratio = edit.op("Div", parts, steps, name="ratio")
    if x is not None and x.dtype not in (None, ir.DataType.FLOAT):
        ratio = edit.op("Cast", ratio, to=ir.DataType.FLOAT, name="wide")
    codes = edit.op("Round", ratio, name="rounded")
    if zero is not None:
        codes = edit.op("Add", codes, _float(edit, zero, scale, steps), name="moved")
    low, high = (edit.scalar(name, float(end), ir.DataType.FLOAT) for name, end in _ends(kind))
    codes = edit.op("Cast", edit.op("Clip", codes, low, high, name="clipped"), to=kind, name="codes")
    edit.replace(node.outputs[0], _back(edit, codes, whole))
    return Site(node.name or node.op_type, (node.op_type,), f"blocks of {block} in arithmetic")


def _decode(node: ir.Node, block: int) -> Site:
    codes, narrow, zero = operands(node, 3)
    edit = Edit(node)
    scale = narrow
    if narrow is not None and narrow.dtype not in (None, ir.DataType.FLOAT):
        scale = edit.op("Cast", narrow, to=ir.DataType.FLOAT, name="steps")
        scale.shape = narrow.shape
    wide = edit.op("Cast", codes, to=ir.DataType.FLOAT, name="wide")
    parts, steps, whole = _blocks(edit, node, wide, scale, block)
    if zero is not None:
        parts = edit.op("Sub", parts, _float(edit, zero, scale, steps), name="centred")
    value = _back(edit, edit.op("Mul", parts, steps, name="value"), whole)
    if scale is not narrow:
        value = edit.op("Cast", value, to=node.outputs[0].dtype or ir.DataType.FLOAT, name="typed")
    edit.replace(node.outputs[0], value)
    return Site(node.name or node.op_type, (node.op_type,), f"blocks of {block} in arithmetic")


def _ends(kind: ir.DataType) -> Iterator[tuple[str, int]]:
    limits = np.iinfo(kind.numpy())
    yield from (("low", limits.min), ("high", limits.max))


def _float(edit: Edit, zero: ir.Value, scale: ir.Value | None, steps: ir.Value) -> ir.Value:
    """Zero points, shaped as scales are."""
    wide = edit.op("Cast", zero, to=ir.DataType.FLOAT, name="points")
    if steps is scale:
        return wide
    return edit.op("Unsqueeze", wide, edit.shape("last", [-1]), name="points")


def _blocks(
    edit: Edit, node: ir.Node, x: ir.Value | None, scale: ir.Value | None, block: int
) -> tuple[ir.Value, ir.Value, ir.Value | None]:
    """The value, the scales that spread over it, and its shape, where the value was cut into blocks for that."""
    assert x is not None
    assert scale is not None
    if size_of(scale, -1) == 1 or size_of(node.inputs[0], -1) == block:
        return x, scale, None
    whole = edit.op("Shape", x, name="whole")
    grid = edit.op("Concat", edit.op("Shape", scale, name="leading"), edit.shape("block", [block]), axis=0, name="grid")
    return edit.op("Reshape", x, grid, name="blocks"), edit.op("Unsqueeze", scale, edit.shape("last", [-1])), whole


def _back(edit: Edit, value: ir.Value, whole: ir.Value | None) -> ir.Value:
    if whole is None:
        return value
    return edit.op("Reshape", value, whole, name="flat")


def _inlined(model: ir.Model) -> Iterator[Site]:
    """Put the bodies of functions where they are called."""
    if not model.functions:
        return
    calls = [node.op_type for node in model.graph.all_nodes() if node.op_identifier() in model.functions]
    for function in model.functions.values():
        opset.bring(function, model.opset_imports[""])
    inlining.inline(model)
    common.NameFixPass()(model)  # inference takes namesakes in branches for one another
    used = {node.domain for node in model.graph.all_nodes()}
    for domain in set(filter(None, model.opset_imports)) - used:
        del model.opset_imports[domain]
    shapes.infer(model)
    yield Site(f"{len(calls)} calls", tuple(dict.fromkeys(calls)), "inlined")
