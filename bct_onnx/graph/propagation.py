"""Where ONNX Runtime's optimizer writes ``QuantizeLinear`` of the model's opset, which it may have no kernel for.

It moves a decoding behind operators that only move numbers, and gives the codes that it then has between floats a
quantization of their own: seen with 1.23, of codes that are constant or computed.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

_MOVED_BEHIND = ("Transpose", "Slice")


def quantizers_written(nodes: Iterable[ir.Node]) -> bool:
    """Whether a decoding is read by an operator that ONNX Runtime moves it behind."""
    for node in nodes:
        if node.op_type != "DequantizeLinear" or node.inputs[0] is None or node.inputs[0].is_graph_input():
            continue
        if any(user.op_type in _MOVED_BEHIND and not user.domain for user in node.successors()):
            return True
    return False
