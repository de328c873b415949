"""QuantizeLinear where ONNX Runtime has no kernel for it: its own operator of the same name does the same.

ONNX Runtime 1.23 registers QuantizeLinear of opset 23 for other types than ONNX defines, so that no node finds the
kernel, and has Attention, RMSNormalization and RotaryEmbedding from that opset on only. Its own operator,
``com.microsoft::QuantizeLinear``, is the same kernel in every version, and fuses in the same ways; it knows one scale
for all and one per channel, no blocks.
"""

from __future__ import annotations

import onnx_ir as ir

from bct_onnx.graph import functions, kernels, opset, walk
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.kernels import MICROSOFT
from bct_onnx.graph.known import is_last_axis, size_of
from bct_onnx.graph.neighbours import made_by
from bct_onnx.graph.propagation import quantizers_written

PAIR = ("QuantizeLinear", "DequantizeLinear")


def lack_kernel(model: ir.Model, version: str = kernels.LOWEST) -> bool:
    """Whether a version of ONNX Runtime has no kernel for some quantization, those of its optimizer included, or for
    some decoding."""
    if not kernels.runtime(version).runs("DequantizeLinear", model.opset_imports.get("", 0)):
        return bool(walk.nodes_of(model.graph, *PAIR))
    if kernels.runtime(version).runs("QuantizeLinear", model.opset_imports.get("", 0)):
        return False
    return bool(without_kernel(model, version)) or quantizers_written(model.graph.all_nodes())


def bring_down(model: ir.Model, version: str = kernels.LOWEST) -> tuple[int, str]:
    """Bring a model to the highest opset that a version has all kernels of: how far it went down (0 where it cannot),
    and why it had to."""
    before = model.opset_imports[""]
    scopes: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    after, reason = opset.best(scopes, before, version)
    if after >= before:
        return 0, reason
    for scope in scopes:
        opset.bring(scope, after)
    model.ir_version = min(model.ir_version, opset.ir_version(after))
    return before - after, reason


def without_kernel(model: ir.Model, version: str = kernels.LOWEST) -> list[ir.Node]:
    """The standard quantizations for which a version of ONNX Runtime has no kernel at the model's opset."""
    if kernels.runtime(version).runs("QuantizeLinear", model.opset_imports.get("", 0)):
        return []
    return walk.nodes_of(model.graph, "QuantizeLinear")


def respell(model: ir.Model, node: ir.Node) -> str:
    """Give a quantization to ONNX Runtime's operator; why not, if that cannot be."""
    x, scale, *zero = node.inputs
    block = node.attributes.get_int("block_size", 0)
    assert x is not None and scale is not None
    if reason := _refusal(node, x, scale, block):
        return reason
    model.opset_imports.setdefault(MICROSOFT, 1)
    edit = Edit(node)
    zeros = zero[0] if zero and zero[0] is not None else _zeros(edit, node, scale)
    axis = node.attributes.get_int("axis", 1)
    if not block:
        edit.replace(node.outputs[0], edit.op("QuantizeLinear", x, scale, zeros, domain=MICROSOFT, axis=axis))
        return ""
    rows = edit.op("Reshape", x, edit.shape("rows", [-1, block]), name="rows")
    flat = edit.shape("flat", [-1])
    scales = edit.op("Reshape", scale, flat, name="scales")
    zeros = edit.op("Reshape", zeros, flat, name="zeros")
    codes = edit.op("QuantizeLinear", rows, scales, zeros, domain=MICROSOFT, axis=0)
    shape = edit.op("Shape", x, name="shape")
    edit.replace(node.outputs[0], edit.op("Reshape", codes, shape, allowzero=1, name="codes"))
    return ""


def _zeros(edit: Edit, node: ir.Node, scale: ir.Value) -> ir.Value:
    """Zero points of 0, which say the type of the codes."""
    dtype = ir.DataType(node.attributes.get_int("output_dtype", 0) or ir.DataType.UINT8)
    return edit.op(
        "Expand", edit.scalar("zero_point", 0, dtype), edit.op("Shape", scale, name="points"), name="zero_points"
    )


def _refusal(node: ir.Node, x: ir.Value, scale: ir.Value, block: int) -> str:
    if node.attributes.get_int("precision", 0):
        return "it says with what precision to divide"
    if not block:
        return ""
    if not is_last_axis(node.attributes.get_int("axis", 1), x):
        return "its blocks do not lie along the last axis"
    if made_by(scale, *_SCALES, domain=functions.DOMAIN):
        return ""
    size = size_of(x, -1)
    if size is None or size % block:
        return "its blocks are not known to divide the last axis"
    return ""


_SCALES = ("TokenScale", "BlockScale")
"""Functions that give the scales of blocks which divide the last axis: `quantize-activations` sees to that."""
