"""A linear layer of floats: a product by a constant weight W [K, N], wherever that stands and whichever way round."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.forms import codes
from bct_onnx.graph import tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.known import size_of
from bct_onnx.graph.neighbours import made_by, only_use, operand, provided, readers_of
from bct_onnx.quant.strips import oriented
from bct_onnx.runtime.statistics import ChannelStatistics, measured

NORMS = ("LayerNormalization", "RMSNormalization")


@dataclasses.dataclass(frozen=True)
class Linear:
    """A MatMul or Gemm with a constant weight.

    Attributes:
        node: The MatMul or Gemm.
        weight: The initializer.
        tensor: Its data, [K, N], or [N, K] if `transposed`.
        transposed: Whether the initializer is [N, K]: seen through a Transpose, or by a Gemm with transB.
        refusal: Why it is no ``x [..., K] @ W [K, N]`` with a weight of its own; empty if it is.
        tied: Whether the refusal is that the weight is an embedding table too.
    """

    node: ir.Node
    weight: ir.Value
    tensor: ir.TensorProtocol
    transposed: bool = False
    refusal: str = ""
    tied: bool = False

    @classmethod
    def of(cls, node: ir.Node) -> Linear | None:
        """The linear layer that ``node`` is; None where it multiplies by no constant."""
        if node.domain or node.op_type not in ("MatMul", "Gemm"):
            return None
        weight, transposed = _initializer(node.inputs[1])
        if weight is None or weight.const_value is None:
            left, _ = _initializer(node.inputs[0])
            if left is None or left.const_value is None:
                return None
            return cls(node, left, left.const_value, refusal="multiplied from the left")
        transposed ^= bool(node.attributes.get_int("transB", 0))
        refusal = "" if len(weight.const_value.shape) == 2 else "not a matrix"
        if node.attributes.get_int("transA", 0):
            refusal = "Gemm with transA"
        tied = not refusal and any(use.node.op_type.startswith("Gather") for use in weight.uses())
        if tied:
            refusal = "tied to an embedding; quantize-embeddings stores both once"
        return cls(node, weight, weight.const_value, transposed, refusal, tied)

    @property
    def shape(self) -> tuple[int, int]:
        """K and N of the weight, which is a matrix."""
        rows, columns = self.tensor.shape.numpy()
        if self.transposed:
            return (columns, rows)
        return (rows, columns)

    @property
    def key(self) -> tuple[int, bool]:
        """What it has in common with the layers that can share its quantized weight."""
        return id(self.weight), self.transposed

    @property
    def is_shared(self) -> bool:
        """Whether the weight, as it is or transposed, is read elsewhere: by another operator, or as an output."""
        read = self.weight
        while len(uses := list(read.uses())) == 1 and not read.is_graph_output():
            if uses[0].node.op_type != "Transpose":
                return False
            read = uses[0].node.outputs[0]
        return True

    @property
    def statistics(self) -> ChannelStatistics | None:
        """What calibrate has measured of its input."""
        return measured(self.node.inputs[0])

    def matrix(self) -> npt.NDArray[Any]:
        """The weight [K, N] in its own type, a view of what is stored; `tensors.release` the tensor when done."""
        return oriented(tensors.array(self.tensor), self.transposed)

    def importance(self) -> npt.NDArray[np.float32] | None:
        """Mean square of each input channel [K], or None where nothing is known.

        Measured by calibrate; else, behind a normalization, ``gamma² + beta²``: a normalized row has zero mean and unit
        variance (unit mean square for RMSNormalization) over its channels.
        """
        if self.statistics is not None:
            return _usable(self.statistics.mean_square.astype(np.float32))
        norm = made_by(self.node.inputs[0], *NORMS)
        if norm is None:
            return None
        total = np.zeros((), np.float32)
        for value in norm.inputs[1:3]:
            if value is None:
                continue
            if not value.is_initializer() or value.const_value is None:
                return None
            total = total + np.square(tensors.array(value).astype(np.float32))
        if total.ndim == 1:
            return _usable(total)
        return None

    def scale(self, factors: npt.NDArray[np.float32], axis: int) -> None:
        """Multiply the weight [K, N] by ``factors`` along ``axis``; computed when the weight is read, so that none is
        held in memory."""
        tensor, along_last = self.tensor, self.transposed == (axis == 0)

        def scaled() -> ir.TensorProtocol:
            array = tensors.array(tensor)
            product = array * (factors if along_last else factors[:, None]).astype(array.dtype)
            tensors.release(tensor)
            return ir.Tensor(product, dtype=tensor.dtype, name=tensor.name)

        shape = ir.Shape(tensor.shape.numpy())
        self.weight.const_value = ir.LazyTensor(scaled, dtype=tensor.dtype, shape=shape, name=tensor.name)

    def replace(self, edit: Edit, product: ir.Value) -> None:
        """Give ``product`` [..., N], which ``edit`` has built in front of the node, to whatever reads the layer: after
        alpha, beta and bias of a Gemm."""
        if self.node.op_type == "Gemm":
            product = self._finish(edit, product)
        edit.replace(self.node.outputs[0], product)

    def _finish(self, edit: Edit, product: ir.Value) -> ir.Value:
        node = self.node
        alpha, beta = node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)
        assert node.inputs[1] is not None
        kind = node.inputs[1].dtype or ir.DataType.FLOAT
        if alpha != 1.0:
            product = edit.op("Mul", product, edit.scalar("alpha", alpha, kind), name="times_alpha")
        bias = operand(node, 2)
        if bias is None:
            return product
        if beta != 1.0:
            bias = edit.op("Mul", bias, edit.scalar("beta", beta, kind), name="times_beta")
        return edit.op("Add", product, bias)


def linears(weight: ir.Value) -> Iterator[Linear]:
    """The linear layers that multiply by an initializer, as it is or through a Transpose."""
    for use in weight.uses():
        users = [use.node]
        if use.node.op_type == "Transpose":
            users = readers_of(use.node.outputs[0])
        for user in users:
            linear = Linear.of(user)
            if linear is not None and linear.weight is weight:
                yield linear


def bias_of(product: ir.Node) -> tuple[ir.Node | None, ir.Value | None]:
    """The Add of a constant vector, one value per column, that is all that follows a product, and that vector."""
    use = only_use(product.outputs[0])
    if use is None or use[0].op_type != "Add" or use[0].domain:
        return None, None
    addition, index = use
    bias = addition.inputs[1 - index]
    vector = codes.vector(bias)
    if vector is None or vector.ndim != 1 or vector.size != (_columns(product) or max(vector.size, 2)):
        return None, None
    return addition, bias


def _columns(product: ir.Node) -> int | None:
    """How many columns a product gives: as its weight says, which is sure, or as declared; None where neither does."""
    values = [product.outputs[0], product.inputs[1]]
    if values[1] is not None and values[1].is_initializer():
        values.reverse()
    return next(iter(provided(size_of(value, -1) for value in values)), None)


def _usable(importance: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | None:
    if np.isfinite(importance).all() and importance.any():
        return importance
    return None


def _initializer(value: ir.Value | None) -> tuple[ir.Value | None, bool]:
    """The float initializer behind ``value`` and whether it is seen through a matrix transpose."""
    transpose = made_by(value, "Transpose")
    if transpose is not None:
        if list(transpose.attributes.get_ints("perm", [1, 0])) != [1, 0]:
            return None, False
        value = transpose.inputs[0]
    if value is None or not value.is_initializer() or value.const_value is None:
        return None, False
    if value.const_value.dtype not in tensors.FLOATS:
        return None, False
    return value, transpose is not None
