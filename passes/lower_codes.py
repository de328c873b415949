"""Run calibrated codes through the byte-sized kernels of ONNX Runtime's CPU provider."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import onnx_ir as ir

from bct_onnx.base import NodePass, Outcome, Site, Stage
from bct_onnx.course import Course
from bct_onnx.forms import byte_kernels, codes, int8, packed, products
from bct_onnx.forms.products import Product
from bct_onnx.graph import tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.kernels import MICROSOFT
from bct_onnx.graph.known import dtypes_of


@dataclasses.dataclass(frozen=True)
class LowerCodes(NodePass):
    """Give matrix products and functions whose codes have constant scales to integer kernels of the runtime.

    Why:
        ONNX Runtime's QLinear kernels read and write bytes: a quarter of the memory traffic, tables instead of
        polynomials, and no pass over the data to find scales.

    Before/after:
        ``MatMul(DQ(codes), W) + b`` becomes one ``MatMulIntegerToFloat``. ``IntegerGelu`` becomes ``Gelu`` between
        codes, ``IntegerSilu`` ``QLinearMul(x, QLinearSigmoid(x))``, likewise sigmoid and tanh. ``IntegerSoftmax``
        becomes ``QLinearSoftmax``. ``Gelu`` whose result becomes codes takes its form with tanh.

    Declines:
        Nothing: what has no kernel stays in its portable form, which runs too. Where a gate is too coarse for the
        results of a place (SiLU of negative numbers), and for tables, the function is done in floats between codes.
        ``Gelu`` stays exact in a run that makes no codes: those behind it came with the model.

    Options:
        products: How SiLU and GELU are done: gate, x times a byte of the runtime's table of the sigmoid; or table, 256
            results each correctly rounded, which is ten times slower.
        gelu: How GELU is done with products=gate: float, which in all-MiniLM-L6-v2 takes 1 % of its time more and
            leaves half the error of all codes; or gate.

    Promise:
        Bounded: products have the same integers; functions differ from their portable form by a code or two. With a
        gate IntegerGelu differs by the error of x sigmoid(1.702 x), at most 0.021, and both by up to x / 510, since
        gates are bytes.
    """

    name: ClassVar[str] = "lower-codes"
    stage: ClassVar[Stage] = Stage.LOWER
    promise: ClassVar[str] = "bounded"

    products: Literal["gate", "table"] = "gate"
    gelu: Literal["float", "gate"] = "float"
    operators: ClassVar[tuple[str, ...]] = ("MatMul", "Gelu", *byte_kernels.FUNCTIONS)
    imports: ClassVar[str] = MICROSOFT

    def rewriter(self, model: ir.Model, nodes: Sequence[ir.Node]) -> Callable[[ir.Node], Outcome]:
        """What several products share, a decoded weight, is made once."""
        matrices, are_foreign = int8.Matrices(model), Course.of(model).finds_codes

        def lower(node: ir.Node) -> Outcome:
            if node.op_type == "MatMul":
                return _product(matrices, node)
            if node.op_type == "Gelu":
                if are_foreign:
                    return None
                return _gelu(node)
            return self._function(model, node)

        return lower

    def _function(self, model: ir.Model, node: ir.Node) -> Site | None:
        if ir.DataType.INT8 in dtypes_of(node.inputs):
            return None  # kernels and tables here are of unsigned codes
        if node.op_type == "IntegerSoftmax":
            return byte_kernels.softmax(node)
        tables = self.products == "table"
        if node.op_type == "Lookup":
            if tables:
                return None
            return byte_kernels.floats_for_lookup(node)
        if tables and node.op_type in byte_kernels.TABLES:
            return byte_kernels.table(model, node)
        if self.gelu == "float" and byte_kernels.TABLES.get(node.op_type) == "Gelu":
            return byte_kernels.float_gelu(node)
        return byte_kernels.sigmoid(node)


def _product(matrices: int8.Matrices, node: ir.Node) -> Site | None:
    """The kernel that takes tokens of any rank and adds the bias; where its result becomes codes, a quantization
    follows, which together costs what ``QGemm`` does without flattening its tokens."""
    product, x = Product.of(node, any_bias=True), codes.read(node.inputs[0])
    if product is None or x is None or x.factors is not None or x.codes.dtype != ir.DataType.UINT8:
        return None
    matrix, edit, bias = matrices.of(product.weight), Edit(product.last, node.name or "MatMul"), product.bias
    if bias is not None and bias.dtype != ir.DataType.FLOAT:
        bias = edit.op("Cast", bias, to=ir.DataType.FLOAT)
    result = products.multiply(edit, (x.codes, x.scale, x.zero_point), matrix, bias)
    old, quantize = product.result, product.quantize
    if quantize is not None and quantize.inputs[0] is not None:
        old = quantize.inputs[0]  # in a half-precision model the product cast to float32
    else:
        result = packed.typed(edit, result, product.weight.dtype)
    edit.replace(old, result, also=[product.last, node, *x.nodes])
    return Site(node.name or "", ("DequantizeLinear", "MatMul"), "integers in, float out")


def _gelu(node: ir.Node) -> Site | None:
    """The form that costs less, where the difference disappears in the codes made from it."""
    quantize = codes.quantized(node.outputs[0])
    if quantize is None or quantize.inputs[1] is None or node.attributes.get_string("approximate", "none") != "none":
        return None
    if float(tensors.array(quantize.inputs[1])) < byte_kernels.FINEST_GELU:
        return None
    edit = Edit(node)
    edit.replace(node.outputs[0], edit.op("Gelu", node.inputs[0], approximate="tanh"))
    return Site(node.name or "", ("Gelu",), "by its form with tanh")
