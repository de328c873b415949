"""What the rules of this package share: one node of ONNX Runtime's own, and the standard ones that are made for it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from bct_onnx.graph import tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.known import dtype_of, type_of
from bct_onnx.graph.neighbours import is_read

Made = dict[Hashable, ir.Value]
"""Values that several nodes share, by what they are made from."""


class Lift(Edit):
    """Standard nodes in front of one of ONNX Runtime's own.

    Args:
        node: The node to lift.
        shared: Values made for earlier nodes of the model that may serve this one, such as masks.
    """

    def __init__(self, node: ir.Node, shared: Made) -> None:
        super().__init__(node)
        self.node = node
        self._made = shared

    def input(self, index: int) -> ir.Value | None:
        """An input; None where it is left out."""
        if index < len(self.node.inputs):
            return self.node.inputs[index]
        return None

    def given(self, index: int) -> ir.Value:
        """An input that is always there."""
        value = self.input(index)
        assert value is not None
        return value

    def used(self, *indices: int) -> bool:
        """Whether any of these outputs is there and read."""
        outputs = [self.node.outputs[index] for index in indices if index < len(self.node.outputs)]
        return any(map(is_read, outputs))

    def number(self, name: str, default: float) -> float:
        """A number among the attributes."""
        attribute = self.node.attributes.get(name)
        if attribute is None:
            return default
        return float(attribute.value)

    def count_to(self, count: ir.Value, dtype: ir.DataType, name: str) -> ir.Value:
        """The numbers from 0 on, as many as ``count`` says."""
        zero, one = self.scalar("zero", 0, dtype), self.scalar("one", 1, dtype)
        return self.op("Range", zero, count, one, name=name)

    def once(self, key: Hashable, make: Callable[[], ir.Value]) -> ir.Value:
        """What ``make`` gives, made once for all nodes of a graph that ask with the same ``key``."""
        whole = (id(self.graph), key)
        if whole not in self._made:
            self._made[whole] = make()
        return self._made[whole]

    def typed(self, op_type: str, *inputs: ir.Value | None, name: str = "", **attributes: Any) -> ir.Value:
        """As `op`; the result has the element type of the first input."""
        value = self.op(op_type, *inputs, name=name, **attributes)
        value.type = type_of(dtype_of(inputs[0]))
        return value

    def plus(self, value: ir.Value, bias: ir.Value | None, name: str = "") -> ir.Value:
        """The sum; the value where there is no bias."""
        if bias is None:
            return value
        return self.typed("Add", value, bias, name=name)

    def size(self, value: ir.Value, axis: int) -> ir.Value:
        """One dimension ``[1]``, measured once for all that is known to have the same."""
        dim = None if value.shape is None or axis >= value.shape.rank() else value.shape[axis]
        known = dim.value if isinstance(dim, ir.SymbolicDim) else dim
        key = ("size", (id(value), axis) if known is None else known)
        return self.once(key, lambda: self.op("Shape", value, start=axis, end=axis + 1, name=f"size_{axis}"))

    def parts(self, value: ir.Value, sizes: Sequence[int], axis: int) -> list[ir.Value]:
        """A weight cut along ``axis``: constants of their own where it is one, else by ``Split``."""
        if not value.is_initializer() or value.const_value is None:
            self.op("Split", value, self.shape("sizes", sizes), axis=axis, outputs=len(sizes), name="parts")
            outputs = list(self.made[-1].outputs)
            for output in outputs:
                output.type = value.type
            return outputs
        ends = np.cumsum(sizes).tolist()
        parts = []
        for side, size, end in zip("qkv", sizes, ends, strict=False):
            parts.append(self._part(value, axis, end - size, end, side))
        tensors.release(value)
        return parts

    def _part(self, value: ir.Value, axis: int, start: int, end: int, side: str) -> ir.Value:
        def make() -> ir.Value:
            data = tensors.array(value)
            part = np.ascontiguousarray(data[start:end] if axis == 0 else data[:, start:end])
            return self.constant(f"{value.name}/{side}", part, value.dtype)

        return self.once(("part", id(value), start, end), make)


Rule = Callable[[Lift], list[ir.Value | None] | str]
"""Makes the standard nodes and gives the values of the outputs, None where nobody reads one; or says why it cannot."""
