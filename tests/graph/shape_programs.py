"""Programs of shape arithmetic: drawn node by node, each run in ONNX Runtime on several sizes as it is drawn.

A node that ONNX Runtime refuses at any of the sizes is left out, so that whatever is claimed about a program can be
held against what its values are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from hypothesis import strategies as st

from bct_onnx.errors import TargetError
from bct_onnx.graph.tensors import Array
from bct_onnx.runtime.evaluation import Evaluator

OPSET = 23
SIZINGS = ({"a": 2, "b": 5, "c": 3}, {"a": 1, "b": 1, "c": 4}, {"a": 3, "b": 2, "c": 1}, {"a": 0, "b": 2, "c": 0})
"""What the names stand for; a program has a value for each of them."""

_LARGEST = 4096
_EVALUATE = Evaluator(OPSET)

Draw = Callable[[st.SearchStrategy[Any]], Any]

INTEGERS = (
    ir.DataType.INT64,
    ir.DataType.INT32,
    ir.DataType.UINT8,
    ir.DataType.INT8,
    ir.DataType.UINT32,
    ir.DataType.UINT64,
)
SMALL = st.integers(-3, 5)
EXTREME = st.sampled_from([2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 127, 255, 2**64 - 1])


@dataclasses.dataclass(repr=False)
class Program:
    """A model under construction, and what its values are at each of `SIZINGS`."""

    inputs: list[ir.Value]
    nodes: list[ir.Node] = dataclasses.field(default_factory=list)
    constants: list[ir.Value] = dataclasses.field(default_factory=list)
    known: dict[ir.Value, list[Array]] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        lines = []
        for node in self.nodes:
            given = [self.known[v][0].tolist() if v in self.constants else v.name for v in node.inputs if v is not None]
            attributes = {key: str(attribute.value) for key, attribute in node.attributes.items()}
            results = [array.tolist() for array in self.known[node.outputs[0]]]
            lines.append(f"{node.outputs[0].name} = {node.op_type} {attributes} {given}  # {results}")
        return "\n".join(lines)

    def constant(self, data: Array) -> ir.Value:
        """A new initializer."""
        tensor = ir.Tensor(data)
        name = f"c{len(self.constants)}"
        value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(data.shape))
        self.constants.append(value)
        self.known[value] = [data] * len(SIZINGS)
        return value

    def ints(self, *numbers: int) -> ir.Value:
        """A vector of int64."""
        return self.constant(np.array(numbers, np.int64))

    def add(self, op_type: str, inputs: list[ir.Value], outputs: int = 1, **attributes: Any) -> None:
        """Append a node, unless ONNX Runtime cannot run it at some size."""
        if op_type in _GUARDS and not all(
            _GUARDS[op_type](*(self.known[value][at] for value in inputs)) for at in range(len(SIZINGS))
        ):
            return
        results = []
        for at in range(len(SIZINGS)):
            given = [_constant(self.known[value][at]) for value in inputs]
            node = ir.node(op_type, given, attributes or None, num_outputs=outputs)
            try:
                results.append(_EVALUATE(node, list(range(outputs))))
            except TargetError:
                return
        if any(array.size > _LARGEST for result in results for array in result):
            return
        node = ir.node(op_type, inputs, attributes or None, num_outputs=outputs, name=f"n{len(self.nodes)}")
        for place, output in enumerate(node.outputs):
            output.name = f"v{len(self.nodes)}_{place}"
            self.known[output] = [result[place] for result in results]
        self.nodes.append(node)

    def pick(self, draw: Draw, kinds: str = "iu", ranks: tuple[int, ...] = (0, 1, 2, 3, 4)) -> ir.Value:
        """Some value whose elements are of one of these kinds; one that was made late rather than early."""
        fits = [
            value
            for value, (array, *_) in self.known.items()
            if array.dtype.kind in kinds and array.ndim in ranks and value not in self.constants
        ]
        return fits[-1 - draw(st.integers(0, min(len(fits) - 1, 5)))] if fits else self.ints(draw(SMALL))

    def model(self, outputs: list[ir.Value]) -> ir.Model:
        """The program with these values, passed through an ``Identity`` of unknown shape, as its outputs."""
        ends = [ir.node("Identity", [value], name=f"end{index}") for index, value in enumerate(outputs)]
        for index, (end, value) in enumerate(zip(ends, outputs, strict=True)):
            end.outputs[0].name = f"y{index}"
            end.outputs[0].type = ir.TensorType(ir.DataType.from_numpy(self.known[value][0].dtype))
        graph = ir.Graph(
            self.inputs,
            [end.outputs[0] for end in ends],
            nodes=[*self.nodes, *ends],
            initializers=self.constants,
            opset_imports={"": OPSET},
            name="program",
        )
        return ir.Model(graph, ir_version=11)

    def feeds(self, at: int) -> dict[str, Array]:
        """The inputs at one of the sizes."""
        return {value.name or "": self.known[value][at] for value in self.inputs}


def _constant(array: Array) -> ir.Value:
    tensor = ir.Tensor(array)
    return ir.Value(name="c", const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape))


def _divides(a: Array, b: Array) -> bool:
    """Dividing integers by 0, or the lowest by -1, ends the process."""
    return a.dtype.kind == "f" or (bool((b != 0).all()) and not (b == -1).any())


def _few(sizes: Array) -> bool:
    return math.prod(max(abs(int(size)), 1) for size in sizes.flat) <= _LARGEST


_GUARDS: dict[str, Callable[..., bool]] = {
    "Div": _divides,
    "Mod": _divides,
    "ConstantOfShape": _few,
    "Expand": lambda data, shape: _few(shape) and _few(np.array(data.shape)),
    "Tile": lambda data, repeats: _few(repeats),
    "Range": lambda start, limit, step: limit.ndim == 0 and bool(step != 0) and abs(limit - start) <= _LARGEST,
}
