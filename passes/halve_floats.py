"""Store what stays float in half the bytes."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import onnx_ir as ir

from bct_onnx.base import Applied, Declined, Outcome, Site, Stage
from bct_onnx.graph import tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.inventory import Weight, inventory
from bct_onnx.quant import halves
from bct_onnx.storing import CompressingPass, store_anew

PACKED = ("matmul", "convolution")
"""Kinds of parameters that kernels of the runtime put into an order of their own."""


@dataclasses.dataclass(frozen=True)
class HalveFloats(CompressingPass):
    """Store float32 parameters that no other pass compresses as float16.

    Why:
        Biases and normalizations are 1 % of a model, but 4 % of one whose matrices have 4 bits and 8 % of one with 2.
        Eleven bits of precision are more than the codes around them have.

    Before/after:
        ``b`` becomes ``Cast(b in float16)``, which the runtime folds when it creates the session.

    Declines:
        Tensors with values beyond float16, or so small that it loses more than 60 dB; those named in ``keep``; matrices
        of products and convolutions: the runtime packs them when it creates a session, but only if they are constants
        without its optimizations too, and a product that is not packed depends on the batch in its last bit.

    Options:
        minimum: Tensors with fewer values stay as they are: a Cast costs about as many bytes.
        keep: Name patterns of tensors that stay float32, joined by ``|``.

    Promise:
        Bounded: the error of each tensor is reported as SQNR, about 75 dB.
    """

    name: ClassVar[str] = "halve-floats"
    stage: ClassVar[Stage] = Stage.HALVE
    promise: ClassVar[str] = "bounded"

    minimum: int = 64
    keep: tuple[str, ...] = ()

    def apply(self, model: ir.Model) -> Applied:
        """Halve every float32 parameter, wherever it is used."""
        outcomes: list[Outcome] = []
        parameters = {weight.name: weight.kind for weight in inventory(model).weights if weight.is_float}
        for graph in (model.graph, *model.graph.subgraphs()):
            for value in list(graph.initializers.values()):
                tensor = value.const_value
                if value.name not in parameters or tensor is None or tensor.dtype != ir.DataType.FLOAT:
                    continue
                if tensor.size < self.minimum or value.is_graph_output() or value.is_graph_input():
                    continue
                outcomes.append(self._halve(value, tensor, parameters[value.name]))
        return Applied.of(model, outcomes)

    def float_bytes(self, weight: Weight) -> int:
        """Half of what a normalization, a bias or a table takes; vectors beside these may become scales instead."""
        if weight.dtype != ir.DataType.FLOAT.name or weight.count < self.minimum or self.keeps(weight.name):
            return weight.nbytes
        if weight.kind in ("norm", "bias", "embedding"):
            return weight.nbytes // 2
        return weight.nbytes

    def _halve(self, value: ir.Value, tensor: ir.TensorProtocol, kind: str) -> Site | Declined:
        name = value.name or "parameter"
        if self.keeps(name):
            return Declined(name, "kept by option keep", tensor.nbytes)
        if kind in PACKED:
            return Declined(name, "a matrix that the runtime packs", tensor.nbytes)
        half, error = halves.halved(tensors.array(tensor))
        if not halves.holds(error):
            return Declined(name, "float16 does not hold its values", tensor.nbytes)

        def write(edit: Edit, name: str) -> ir.Value:
            return edit.op("Cast", edit.constant(name, half), to=ir.DataType.FLOAT, name="wide")

        return Site(name, store_anew(value, write), "float16", error)
