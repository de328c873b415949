"""QuantizeLinear where ONNX Runtime has no kernel for it: its own operator of the same name does the same.

ONNX Runtime 1.23 registers QuantizeLinear of opset 23 for other types than ONNX defines, so that no node finds the
kernel, and has Attention, RMSNormalization and RotaryEmbedding from that opset on only. Its own operator,
``com.microsoft::QuantizeLinear``, is the same kernel in every version, and fuses in the same ways; it knows one scale
for all and one per channel, no blocks.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from bct_onnx.graph import kernels
from bct_onnx.graph.edit import Edit

MICROSOFT = "com.microsoft"


def without_kernel(model: ir.Model, version: str = kernels.LOWEST) -> list[ir.Node]:
    """The standard quantizations for which a version of ONNX Runtime has no kernel at the model's opset."""
    if kernels.runtime(version).runs("QuantizeLinear", model.opset_imports.get("", 0)):
        return []
    return [node for node in model.graph.all_nodes() if node.op_identifier() == ("", "QuantizeLinear", "")]


def respell(model: ir.Model, node: ir.Node) -> str:
    """Give a quantization to ONNX Runtime's operator; why not, if that cannot be."""
    if reason := "; ".join(_refusals(node)):
        return reason
    model.opset_imports.setdefault(MICROSOFT, 1)
    edit = Edit(node)
    x, scale, *zero = node.inputs
    if block := node.attributes.get_int("block_size", 0):
        codes = _in_rows(edit, block, *node.inputs)
    else:
        codes = edit.op("QuantizeLinear", x, scale, *zero, domain=MICROSOFT, axis=node.attributes.get_int("axis", 1))
    edit.replace(node.outputs[0], codes)
    return ""


def _in_rows(edit: Edit, block: int, x: ir.Value | None, scale: ir.Value | None, zero: ir.Value | None) -> ir.Value:
    """Blocks as the rows of a matrix, each of which has a scale."""
    rows = edit.op("Reshape", x, edit.shape("rows", [-1, block]), name="rows")
    flat = edit.shape("flat", [-1])
    scales, zeros = (edit.op("Reshape", one, flat, name="per_row") for one in (scale, zero))
    codes = edit.op("QuantizeLinear", rows, scales, zeros, domain=MICROSOFT, axis=0)
    return edit.op("Reshape", codes, edit.op("Shape", x), name="codes")


def _refusals(node: ir.Node) -> Iterator[str]:
    x, zero = node.inputs[0], node.inputs[2] if len(node.inputs) > 2 else None
    if zero is None and node.attributes.get_int("output_dtype", ir.DataType.UINT8) != ir.DataType.UINT8:
        yield "it has no zero point that says the type of its codes"
    if node.attributes.get_int("precision", 0):
        yield "it says with what precision to divide"
    block = node.attributes.get_int("block_size", 0)
    shape = x.shape if x is not None else None
    if not block:
        return
    if zero is None:
        yield "its blocks have no zero points"
    if shape is None or node.attributes.get_int("axis", 1) not in (-1, len(shape) - 1):
        yield "its blocks do not lie along the last axis"
    elif not isinstance(shape[-1], int) or shape[-1] % block:
        yield "its blocks do not divide the last axis"
