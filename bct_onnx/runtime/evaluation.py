"""What single nodes compute from constants, by the kernels that would compute it when the model runs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from bct_onnx.errors import TargetError
from bct_onnx.graph import protobuf, tensors
from bct_onnx.graph.names import map_values
from bct_onnx.graph.tensors import Array
from bct_onnx.quant.sizes import total_nbytes
from bct_onnx.runtime.session import run, session

_KEPT = 1 << 20
"""A session that computed more bytes than this is not kept: neither is the memory that it holds."""


class Evaluator:
    """Runs nodes in ONNX Runtime, one at a time; nodes alike in operator, attributes and types share a session.

    Args:
        opset: The version of the standard operators that the nodes are of.
    """

    def __init__(self, opset: int) -> None:
        self._imports = [onnx.helper.make_opsetid("", opset)]
        self._sessions: dict[bytes, ort.InferenceSession] = {}

    def __call__(self, node: ir.Node, outputs: list[int]) -> list[Array]:
        """Those of the node's outputs whose places are given, from inputs that are all constants or left out.

        Raises:
            TargetError: ONNX Runtime has no kernel for it, the computation fails, or a result is not one array.
        """
        model = self._model(node, outputs)
        runner = self._sessions.get(model)
        if runner is None:
            runner = self._sessions[model] = session(model, optimize="disabled")
        constants = _labelled(node)
        results = run(runner, map_values(tensors.array, constants))
        for value in constants.values():
            tensors.release(value)
        if not all(isinstance(result, np.ndarray) for result in results):
            raise TargetError("a result is not one array", where=node.name or node.op_type, why="it is a sequence")
        if total_nbytes(results) > _KEPT:
            del self._sessions[model]
        return results

    def _model(self, node: ir.Node, outputs: list[int]) -> bytes:
        """A model of this node alone, with names by place, so that nodes alike give the same bytes."""
        alone = onnx.NodeProto(
            op_type=node.op_type,
            input=["" if value is None else f"i{place}" for place, value in enumerate(node.inputs)],
            output=[f"o{place}" for place in range(len(node.outputs))],
        )
        alone.attribute.extend(map(ir.serde.serialize_attribute, node.attributes.values()))
        graph = onnx.helper.make_graph(
            [alone],
            "constant",
            [
                onnx.helper.make_tensor_value_info(name, value.dtype or 0, None)
                for name, value in _labelled(node).items()
            ],
            protobuf.undeclared(map(alone.output.__getitem__, outputs)),
        )
        version = onnx.helper.find_min_ir_version_for(self._imports)
        model = onnx.helper.make_model(graph, opset_imports=self._imports, ir_version=version)
        return bytes(model.SerializeToString(deterministic=True))


def _labelled(node: ir.Node) -> dict[str, ir.Value]:
    """The inputs of a node that are not left out, by labels with their places."""
    return {f"i{place}": value for place, value in enumerate(node.inputs) if value is not None}
