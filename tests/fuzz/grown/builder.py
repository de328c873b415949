"""A graph under construction: nodes, weights and inputs with fresh names, and what the inputs are fed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Rng = np.random.Generator
Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Size:
    """The sizes of one sample: how many texts (pictures, sounds), how many tokens each, and how many of them count."""

    batch: int
    tokens: int
    lengths: Array


Feed = Callable[[Rng, Size], Array]
"""Makes what one input is given in a sample of some size."""


class Builder:
    """Collects the parts of a model.

    Args:
        rng: Draws the structure and the weights.
        opset: Of the standard operators.
    """

    def __init__(self, rng: Rng, opset: int) -> None:
        self.rng, self.opset = rng, opset
        self.about: list[str] = []
        self.feeds: dict[str, Feed] = {}
        self.defaults: dict[str, Array] = {}
        self.fixed_tokens: int | None = None
        self.scores: list[str] = []
        """What one of several is chosen by, the largest: [batch, choices] each."""
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._domains = {"": opset}
        self._count = 0

    def note(self, what: str) -> None:
        """Remember a choice, for the reader of a failure."""
        self.about.append(what)

    def pick(self, items: Sequence[Any]) -> Any:
        """One of ``items``."""
        return items[int(self.rng.integers(len(items)))]

    def chance(self, odds: float = 0.5) -> bool:
        """True that often."""
        return bool(self.rng.random() < odds)

    def fresh(self, stem: str) -> str:
        """A name that nothing has yet."""
        self._count += 1
        return f"{stem}_{self._count}"

    def op(self, op_type: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node; the name of what it computes."""
        name = self.fresh(op_type.lower())
        if domain:
            self._domains[domain] = {"ai.onnx.ml": 3}.get(domain, 1)
        self._nodes.append(helper.make_node(op_type, inputs, [name], domain=domain, **attributes))
        return name

    def weight(self, array: Array, stem: str = "w") -> str:
        """Add an initializer."""
        name = self.fresh(stem)
        self._weights.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def constant(self, array: Array) -> str:
        """Add a ``Constant`` node."""
        return self.op("Constant", value=numpy_helper.from_array(np.asarray(array, order="C")))

    def ints(self, *values: int) -> str:
        """A vector of int64."""
        return self.weight(np.array(values, np.int64), "ints")

    def scalar(self, value: float, dtype: Any = np.float32) -> str:
        """A constant without axes."""
        return self.weight(np.array(value, dtype), "scalar")

    def normal(self, *shape: int, scale: float | None = None) -> Array:
        """Normal weights, by default as large as keeps the size of what they multiply."""
        fan_in = shape[-2] if len(shape) > 1 else 1
        drawn = self.rng.standard_normal(shape) * (fan_in**-0.5 if scale is None else scale)
        return drawn.astype(np.float32)

    def input(self, names: Sequence[str], dtype: Any, shape: Sequence[int | str], feed: Feed) -> str:
        """Declare an input under one of ``names``."""
        name: str = self.pick([each for each in names if each not in self.feeds] or [self.fresh(names[0])])
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self._inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        self.feeds[name] = feed
        return name

    def optional_input(self, stem: str, default: Array) -> str:
        """An initializer that is an input as well: samples need not give it."""
        name = self.weight(default, stem)
        self.defaults[name] = default
        kind = helper.np_dtype_to_tensor_dtype(default.dtype)
        self._inputs.append(helper.make_tensor_value_info(name, kind, list(default.shape)))
        return name

    def dims(self) -> list[int | str]:
        """Batch and tokens, as inputs declare them."""
        return ["batch", "tokens" if self.fixed_tokens is None else self.fixed_tokens]

    def output(self, value: str, kind: int = TensorProto.FLOAT, *, rank: int) -> None:
        """Declare an output of this rank."""
        name = f"output_{len(self._outputs)}"
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        dims = [f"{name}_{axis}" for axis in range(rank)]
        self._outputs.append(helper.make_tensor_value_info(name, kind, dims))

    def branch(self, nodes: Sequence[onnx.NodeProto], output: str) -> onnx.GraphProto:
        """The body of an ``If`` that gives ``output``."""
        info = onnx.ValueInfoProto(name=output)
        info.type.tensor_type.elem_type = TensorProto.FLOAT
        return onnx.GraphProto(name=self.fresh("branch"), node=nodes, output=[info])

    def model(self) -> onnx.ModelProto:
        """The finished model."""
        graph = helper.make_graph(self._nodes, "grown", self._inputs, self._outputs, self._weights)
        imports = [helper.make_opsetid(domain, version) for domain, version in self._domains.items()]
        made: onnx.ModelProto = helper.make_model(graph, opset_imports=imports, ir_version=8 if self.opset < 21 else 10)
        return made
