"""Arithmetic on bytes in 32 bits: ONNX Runtime adds and multiplies no bytes before 1.23.

It is done on constants when a session is created, so that it costs time and memory there alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from bct_onnx.base import Site
from bct_onnx.graph import functions, runtimes
from bct_onnx.graph.kernels import Runtime
from bct_onnx.graph.neighbours import op_types


def widen(model: ir.Model, runtime: Runtime, opset: int) -> Iterator[Site]:
    """Let functions of this program compute in 32 bits what a runtime does not compute in bytes."""
    for (domain, name, _), function in model.functions.items():
        results = functions.BYTES.get(name, {}) if domain == functions.DOMAIN else {}
        changed = [node for node in function if _lacks(runtime, node, results, opset)]
        for node in changed:
            _in_32_bits(function, node, results[node.outputs[0].name or ""])
        if changed:
            yield Site(name, op_types(changed), "computed in 32 bits")


def _lacks(runtime: Runtime, node: ir.Node, results: Mapping[str, ir.DataType], opset: int) -> bool:
    kind = results.get(node.outputs[0].name or "")
    if kind is None:
        return False
    return bool(runtimes.lacks(runtime, runtimes.Use(node.op_type, (kind.name.lower(),) * 2, ()), opset))


def _in_32_bits(function: ir.Function, node: ir.Node, kind: ir.DataType) -> None:
    """Cast what goes into a node, and what comes out of it back; beyond a byte both wrap around."""
    for index, value in enumerate(node.inputs):
        cast = ir.node("Cast", [value], {"to": ir.DataType.INT32.value})
        function.insert_before(node, cast)
        node.replace_input_with(index, cast.outputs[0])
    result = node.outputs[0]
    name, result.name = result.name, f"{result.name}_wide"
    back = ir.node("Cast", [result], {"to": kind.value})
    back.outputs[0].name = name
    for use in list(result.uses()):
        use.node.replace_input_with(use.idx, back.outputs[0])
    back.replace_input_with(0, result)
    function.insert_after(node, back)
    for index, output in enumerate(function.outputs):
        if output is result:
            function.outputs[index] = back.outputs[0]
