"""Where ONNX Runtime's optimizer writes ``QuantizeLinear`` of the model's opset, which it may have no kernel for.

It moves a decoding behind operators that only move numbers, and gives the codes that it then has between floats a
quantization of their own: seen with 1.23, of codes that are constant or computed.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from bct_onnx.graph.neighbours import is_read_by

_MOVED_BEHIND = ("Transpose", "Slice")


def quantizers_written(nodes: Iterable[ir.Node]) -> bool:
    """Whether a decoding is read by an operator that ONNX Runtime moves it behind."""
    for node in nodes:
        if node.op_type != "DequantizeLinear" or node.inputs[0] is None or node.inputs[0].is_graph_input():
            continue
        if is_read_by(node.outputs[0], *_MOVED_BEHIND):
            return True
    return False
