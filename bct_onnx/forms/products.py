"""A product by a stored weight: activation in, weight, and the bias and quantization that follow."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import onnx_ir as ir

from bct_onnx.forms import codes, weights
from bct_onnx.forms.activations import Activation
from bct_onnx.forms.int8 import Int8Matrix
from bct_onnx.forms.linear import bias_of
from bct_onnx.forms.weights import StoredWeight
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.kernels import MICROSOFT
from bct_onnx.graph.known import rank_of

PRODUCT = "MatMulIntegerToFloat"
"""The runtime's product of codes and an int8 matrix, with a float result."""

X, MATRIX, X_SCALE, COLUMN_SCALE, X_ZERO_POINT, ZERO_POINT, BIAS = range(7)
"""Its inputs."""


@dataclasses.dataclass(frozen=True, eq=False)
class Product:
    """A MatMul by a weight that is stored in integers, and what alone follows it.

    Attributes:
        node: The MatMul.
        x: What it multiplies.
        weight: What it multiplies by.
        addition: The Add of a bias behind it, or None.
        bias: One value per column, [N], as the Add reads it, or None.
    """

    node: ir.Node
    x: Activation
    weight: StoredWeight
    addition: ir.Node | None = None
    bias: ir.Value | None = None

    @classmethod
    def of(cls, node: ir.Node, *, any_bias: bool = False) -> Product | None:
        """The product that a MatMul is; None where its weight is not stored in integers.

        Args:
            node: Any node.
            any_bias: Whether a bias of other types than float32 counts too.
        """
        if node.op_identifier() != ("", "MatMul", "") or node.inputs[0] is None:
            return None
        weight = weights.read(node.inputs[1])
        if weight is None:
            return None
        addition, bias = bias_of(node)
        if bias is not None and bias.dtype != ir.DataType.FLOAT and not any_bias:
            addition = bias = None
        return cls(node, Activation.of(node.inputs[0]), weight, addition, bias)

    @property
    def name(self) -> str:
        """Of the MatMul."""
        return self.node.name or self.node.op_type

    @property
    def last(self) -> ir.Node:
        """The node that gives the result, bias and all."""
        return self.addition or self.node

    @property
    def result(self) -> ir.Value:
        """What it gives, [..., N], as floats."""
        return self.last.outputs[0]

    @property
    def quantize(self) -> ir.Node | None:
        """The QuantizeLinear with one constant scale that alone uses the result."""
        return codes.quantized(self.result)

    @property
    def rank(self) -> int:
        """Number of axes of what goes in and comes out; 0 where it is not known."""
        return self.x.rank or rank_of(self.node.outputs[0]) or 0


def products(nodes: Iterable[ir.Node]) -> Iterator[Product]:
    """Those of some nodes, of a graph for one, that multiply by weights stored in integers."""
    for node in nodes:
        product = Product.of(node)
        if product is not None:
            yield product


def multiply(
    edit: Edit,
    x: tuple[ir.Value | None, ir.Value | None, ir.Value | None],
    matrix: Int8Matrix,
    bias: ir.Value | None = None,
) -> ir.Value:
    """Write the runtime's product; float32 [..., N].

    Args:
        edit: Where.
        x: Codes, scale and zero point of the activation.
        matrix: The weight.
        bias: float32, [N].
    """
    codes_of_x, scale, zero_point = x
    inputs = [codes_of_x, matrix.codes, scale, matrix.scale, zero_point, matrix.zero_point]
    if bias is not None:
        inputs.append(bias)
    return edit.op(PRODUCT, *inputs, domain=MICROSOFT)
