"""Run calibrated codes through the byte-sized kernels of ONNX Runtime's CPU provider."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import onnx_ir as ir

from bct_onnx.base import NodePass, Outcome, Site, Stage
from bct_onnx.forms import codes, int8, packed, products
from bct_onnx.forms.byte_function import TABLE, seen
from bct_onnx.forms.products import Product
from bct_onnx.graph import functions, tensors
from bct_onnx.graph.edit import Edit
from bct_onnx.graph.kernels import MICROSOFT
from bct_onnx.graph.neighbours import operand, producer

FINEST_GELU = 0.004
"""Least step of codes in which the difference of the two forms of GELU, at most 0.0005, is an eighth of a step."""

SIGMOIDS = {
    "IntegerSigmoid": 1.0,
    "IntegerTanh": 2.0,
    "IntegerSilu": 1.0,
    "IntegerGelu": 1.702,
    "IntegerSigmoidGelu": 1.702,
}
"""Functions of codes that are a sigmoid of a multiple of x, or x times it."""

TABLES = {"IntegerGelu": "Gelu", "IntegerSigmoidGelu": "Gelu", "IntegerSilu": "Silu"}
"""Functions of codes that are a product, by what their exact form is called in `bct_onnx.integer.lookup.FUNCTIONS`."""

_ALONE = {"IntegerSigmoid": (1 / 256, 0), "IntegerTanh": (1 / 128, 128)}
"""Functions that are the runtime's sigmoid as it is, with the scale and zero point of its results."""

_FUNCTIONS = tuple(f"{functions.DOMAIN}::{name}" for name in (*SIGMOIDS, "IntegerSoftmax", "Lookup"))


@dataclasses.dataclass(frozen=True)
class LowerCodes(NodePass):
    """Give matrix products and functions whose codes have constant scales to integer kernels of the runtime.

    Why:
        ONNX Runtime's QLinear kernels read and write bytes: a quarter of the memory traffic, tables instead of
        polynomials, and no pass over the data to find scales.

    Before/after:
        ``MatMul(DQ(codes), W) + b`` becomes one ``MatMulIntegerToFloat``. ``IntegerGelu`` becomes
        ``QLinearMul(x, QLinearSigmoid(1.702 x))``, likewise sigmoid, SiLU and tanh. ``IntegerSoftmax`` becomes
        ``QLinearSoftmax``. ``Gelu`` between floats whose result becomes codes takes its form with tanh.

    Declines:
        Nothing: what has no kernel stays in its portable form, which runs too. Where a gate is too coarse for the
        results of a place (SiLU of negative numbers), and for tables, the function is done in floats between codes.

    Options:
        products: How SiLU and GELU are done: gate, x times a byte of the runtime's table of the sigmoid; or table, 256
            results each correctly rounded, which is ten times slower.

    Promise:
        Bounded: products have the same integers; functions differ from their portable form by a code or two. With a
        gate IntegerGelu differs by the error of x sigmoid(1.702 x), at most 0.021, and both by up to x / 510, since
        gates are bytes.
    """

    name: ClassVar[str] = "lower-codes"
    stage: ClassVar[Stage] = Stage.LOWER
    promise: ClassVar[str] = "bounded"

    products: Literal["gate", "table"] = "gate"
    operators: ClassVar[tuple[str, ...]] = ("MatMul", "Gelu", *_FUNCTIONS)
    imports: ClassVar[str] = MICROSOFT

    def rewriter(self, model: ir.Model, nodes: Sequence[ir.Node]) -> Callable[[ir.Node], Outcome]:
        """What several products share, a decoded weight, is made once."""
        matrices = int8.Matrices(model)

        def lower(node: ir.Node) -> Outcome:
            if node.op_type == "MatMul":
                return _product(matrices, node)
            return _gelu(node) if node.op_type == "Gelu" else self._function(model, node)

        return lower

    def _function(self, model: ir.Model, node: ir.Node) -> Site | None:
        if any(value is not None and value.dtype == ir.DataType.INT8 for value in node.inputs):
            return None  # kernels and tables here are of unsigned codes
        if node.op_type == "IntegerSoftmax":
            return _softmax(node)
        tables = self.products == "table"
        if node.op_type == "Lookup":
            return None if tables else _lookup(node)
        return _table(model, node) if tables and node.op_type in TABLES else _sigmoid(node)


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
    if float(tensors.array(quantize.inputs[1])) < FINEST_GELU:
        return None
    edit = Edit(node)
    edit.replace(node.outputs[0], edit.op("Gelu", node.inputs[0], approximate="tanh"))
    return Site(node.name or "", ("Gelu",), "by its form with tanh")


def _sigmoid(node: ir.Node) -> Site | None:
    """A sigmoid of a multiple of x by the runtime's table; times x where the function has that form.

    Where a gate of bytes is too coarse for the results, the function is done in floats.
    """
    if not _has_constant_scales(node):
        return None
    if node.op_type in TABLES and (reason := _too_coarse(node)):
        return _float(node, TABLES[node.op_type], node.inputs[1:], reason)
    x, scale, zero, y_scale, y_zero = node.inputs
    assert scale is not None and y_scale is not None and y_zero is not None
    alone, step = _ALONE.get(node.op_type), 1 / 256
    if alone is None:
        step = float(np.float32(1 / 255))  # 1 has a code of its own
    elif alone != (float(tensors.array(y_scale)), int(tensors.array(y_zero))):
        return None
    edit = Edit(node)
    steepness = float(np.float32(SIGMOIDS[node.op_type] * tensors.array(scale)))
    gate_step, none = edit.scalar("gate_step", step, ir.DataType.FLOAT), edit.scalar("none", 0, ir.DataType.UINT8)
    steeper = edit.scalar("steeper", steepness, ir.DataType.FLOAT)
    result = edit.op("QLinearSigmoid", x, steeper, zero, gate_step, none, domain=MICROSOFT, name="gate")
    if alone is None:
        inputs = (x, scale, zero, result, gate_step, none, y_scale, y_zero)
        result = edit.op("QLinearMul", *inputs, domain=MICROSOFT, name="codes")
    edit.replace(node.outputs[0], result)
    return Site(node.name or "", (node.op_type,), "by the runtime's table of the sigmoid")


def _table(model: ir.Model, node: ir.Node) -> Site | None:
    """The function as 256 results."""
    if not _has_constant_scales(node):
        return None
    from bct_onnx.integer.lookup import table_of  # slow to import, seldom needed

    x, *scales = node.inputs
    edit = Edit(node)
    domain = functions.use(model, "Lookup")
    entries = table_of(TABLES[node.op_type], *(tensors.array(value) for value in scales if value is not None))
    table = edit.constant(f"{node.name}.table", entries)
    edit.replace(node.outputs[0], edit.op("Lookup", x, table, domain=domain, name="codes"))
    return Site(node.name or "", (node.op_type,), "by a table of 256 results")


def _too_coarse(node: ir.Node) -> str:
    """Why x times a byte of the sigmoid does not hold with the scales of this place; empty where it does."""
    from bct_onnx.integer import lookup, places

    scales = [tensors.array(value) for value in node.inputs[1:] if value is not None]
    place = places.place(scales, seen(operand(producer(node.inputs[0]), 0)))
    return place.refusal("its gate", places.gate(SIGMOIDS[node.op_type]), lookup.FUNCTIONS[TABLES[node.op_type]])


def _lookup(node: ir.Node) -> Site | None:
    """What a table was made for: in floats it takes a fifth of the time."""
    if TABLE not in node.meta:
        return None
    exact, scales = node.meta[TABLE]
    return _float(node, exact, scales, "a table takes longer")


def _float(node: ir.Node, function: str, scales: Sequence[ir.Value | None], reason: str) -> Site:
    """The function between codes, as what it is in floats."""
    edit = Edit(node)
    x = edit.op("DequantizeLinear", node.inputs[0], *scales[:2], name="value")
    x.dtype, x.shape = ir.DataType.FLOAT, node.outputs[0].shape
    if function == "GeluTanh":
        y = edit.op("Gelu", x, approximate="tanh", name="float")
    elif function == "Gelu":
        y = edit.op("Gelu", x, approximate="none", name="float")
    elif function == "Silu":
        y = edit.op("Mul", x, edit.op("Sigmoid", x, name="gate"), name="float")
    else:
        y = edit.op(function, x, name="float")
    y.dtype, y.shape = ir.DataType.FLOAT, node.outputs[0].shape
    edit.replace(node.outputs[0], edit.op("QuantizeLinear", y, *scales[2:], name="codes"))
    return Site(node.name or "", (node.op_type,), f"the float operator between codes: {reason}")


def _has_constant_scales(node: ir.Node) -> bool:
    """Whether all but the codes is constant: one function for the whole tensor."""
    return all(value is not None and value.const_value is not None for value in node.inputs[1:])


def _softmax(node: ir.Node) -> Site | None:
    if len(node.inputs) != 5:
        return None
    edit = Edit(node)
    options: dict[str, Any] = {"axis": -1, "opset": 13}
    edit.replace(node.outputs[0], edit.op("QLinearSoftmax", *node.inputs, domain=MICROSOFT, name="codes", **options))
    return Site(node.name or "", (node.op_type,), "by the runtime's byte-sized softmax")
