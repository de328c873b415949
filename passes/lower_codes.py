"""Run calibrated codes through the byte-sized kernels of ONNX Runtime's CPU provider."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Literal

import numpy as np
import onnx_ir as ir

from bct_onnx.base import Applied, Pass, Site
from bct_onnx.graph import codes, functions, tensors, weights
from bct_onnx.graph.edit import Edit
from bct_onnx.integer.attention_ort_cpu import HIGHEST, RANGE
from bct_onnx.runtime.statistics import SCORES, Scores
from passes.balance import bias_of
from passes.lower_ort_cpu import MICROSOFT, Matrices, int8_matrix

FINEST, COARSEST = 0.06, 0.3
"""Steps of 8-bit scores that attention is accurate with."""

NORMS = {"IntegerLayerNorm": "LayerNormalization", "IntegerRMSNorm": "RMSNormalization"}
"""Normalizations of codes, and the float operators that stand between codes for them."""

SIGMOIDS = {
    "IntegerSigmoid": 1.0,
    "IntegerTanh": 2.0,
    "IntegerSilu": 1.0,
    "IntegerGelu": 1.702,
    "IntegerSigmoidGelu": 1.702,
}
"""Functions of codes that are a sigmoid of a multiple of x, or x times it."""


@dataclasses.dataclass(frozen=True)
class LowerCodes(Pass):
    """Give matrix products, functions and attention whose codes have constant scales to integer kernels of the runtime.

    Why:
        ONNX Runtime's QLinear kernels read and write bytes: a quarter of the memory traffic, tables instead of
        polynomials, and no pass over the data to find scales.

    Before/after:
        ``Q(MatMul(DQ(codes), W) + b)`` becomes one ``QGemm``, the bias int32; without the ``Q``,
        ``MatMulIntegerToFloat``. ``IntegerGelu`` becomes ``QLinearMul(x, QLinearSigmoid(1.702 x))``, likewise
        sigmoid, SiLU and tanh. ``IntegerSoftmax`` becomes ``QLinearSoftmax``. ``IntegerAttention`` becomes
        ``IntegerMaskedAttentionOrtCpu``, whose exponential is a table of the runtime. ``IntegerLayerNorm`` becomes
        ``Q(LayerNormalization(DQ(codes)))``.

    Declines:
        Nothing: what has no kernel stays in its portable form, which runs too.

    Options:
        norms: The runtime has no integer operator for normalizations, and as loops of integer operators they cost four
            times its float operator between codes, which ``float`` takes; ``integer`` leaves ``IntegerLayerNorm`` and
            ``IntegerRMSNorm`` as they are.

    Promise:
        Bounded: products have the same integers; functions differ from their portable form by a code or two, and Gelu
        by the error of x sigmoid(1.702 x), at most 0.021; gates are bytes, so SiLU and Gelu lose up to x / 510.
    """

    name: ClassVar[str] = "lower-codes"
    promise: ClassVar[str] = "bounded"

    norms: Literal["float", "integer"] = "float"

    def apply(self, model: ir.Model) -> Applied:
        """Lower every product and function of calibrated codes."""
        sites: list[Site] = []
        matrices: Matrices = {}
        flat: dict[int, ir.Value] = {}
        for graph in (model.graph, *model.graph.subgraphs()):
            for node in list(graph):
                site: Site | None = None
                if node.op_type == "MatMul" and not node.domain:
                    site = _matmul(model, node, matrices, flat)
                elif node.domain == functions.DOMAIN and node.op_type in _LOWERINGS:
                    site = _LOWERINGS[node.op_type](model, node)
                elif node.domain == functions.DOMAIN and node.op_type in NORMS and self.norms == "float":
                    site = _norm(node)
                if site is not None:
                    sites.append(site)
        if sites:
            model.opset_imports.setdefault(MICROSOFT, 1)
        return Applied(model, sites)


def _matmul(model: ir.Model, node: ir.Node, matrices: Matrices, flat: dict[int, ir.Value]) -> Site | None:
    stored, x = weights.read(node.inputs[1]), codes.read(node.inputs[0])
    if stored is None or x is None or x.factors is not None or x.codes.dtype != ir.DataType.UINT8:
        return None
    right = int8_matrix(model, stored, matrices)
    addition, bias = bias_of(node)
    last = addition or node
    quantize = codes.quantized_to_bytes(last.outputs[0])
    edit = Edit(last if quantize is None else quantize, node.name or "MatMul")
    if quantize is None:
        result = _to_float(edit, x, right, bias)
        if stored.dtype != ir.DataType.FLOAT:
            result = edit.op("Cast", result, to=stored.dtype, name="typed")
        edit.replace(last.outputs[0], result, also=[node, *x.nodes])
        return Site(node.name or "", ("DequantizeLinear", "MatMul"), "integers in, float out")
    result = _to_codes(edit, x, stored, right, bias, quantize, flat)
    edit.replace(quantize.outputs[0], result, also=[last, node, *x.nodes])
    return Site(node.name or "", ("DequantizeLinear", "MatMul", "QuantizeLinear"), "integers in and out")


def _to_float(edit: Edit, x: codes.Codes, right: tuple[ir.Value, ...], bias: ir.Value | None) -> ir.Value:
    matrix, column_scale, *middle = right
    wide = None if bias is None else _float32(edit, bias)
    inputs = (x.codes, matrix, x.scale, column_scale, x.zero_point, middle[0] if middle else None, wide)
    return edit.op("MatMulIntegerToFloat", *inputs[: 6 if bias is None else 7], domain=MICROSOFT)


def _to_codes(
    edit: Edit,
    x: codes.Codes,
    stored: weights.Stored,
    right: tuple[ir.Value, ...],
    bias: ir.Value | None,
    quantize: ir.Node,
    flat: dict[int, ir.Value],
) -> ir.Value:
    """``QGemm`` on the tokens of all sequences as one matrix."""
    matrix, column_scale, *middle = right
    rank = x.codes.shape.rank() if x.codes.shape is not None else 0
    left = x.codes
    if rank != 2:
        if id(x.codes) not in flat:
            producer = x.codes.producer()
            first = edit if producer is None else Edit(producer, x.codes.name or "codes", after=True)
            flat[id(x.codes)] = first.op("Reshape", x.codes, first.shape("rows", [-1, stored.k]), name="rows")
        left = flat[id(x.codes)]
    zero = middle[0] if middle else edit.scalar("middle", 0, ir.DataType.INT8)
    zeros = edit.op("Expand", zero, edit.op("Shape", column_scale), name="middles")
    offset = None if bias is None else _bias_codes(edit, x, column_scale, bias)
    inputs = (left, x.scale, x.zero_point, matrix, column_scale, zeros, offset, *quantize.inputs[1:3])
    product = edit.op("QGemm", *inputs, domain=MICROSOFT, alpha=1.0, transA=0, transB=0)
    if rank == 2:
        return product
    leading = edit.op("Shape", x.codes, start=0, end=-1, name="leading")
    width = edit.shape("width", [stored.n])
    shape = edit.op("Concat", leading, width, axis=0, name="shape")
    return edit.op("Reshape", product, shape, name="tokens", allowzero=1)


def _bias_codes(edit: Edit, x: codes.Codes, column_scale: ir.Value, bias: ir.Value) -> ir.Value:
    """The bias in the scale of the sums, int32: Round(bias / (scale of x * scale of the column)); folded at load."""
    steps = edit.op("Mul", column_scale, x.scale, name="steps")
    whole = edit.op("Round", edit.op("Div", _float32(edit, bias), steps), name="whole")
    return edit.op("Cast", whole, to=ir.DataType.INT32, name="bias")


def _float32(edit: Edit, bias: ir.Value) -> ir.Value:
    return bias if bias.dtype == ir.DataType.FLOAT else edit.op("Cast", bias, to=ir.DataType.FLOAT, name="bias")


def _sigmoid(model: ir.Model, node: ir.Node) -> Site | None:
    """A sigmoid of a multiple of x by the runtime's table; times x where the function has that form."""
    x, scale, zero, y_scale, y_zero = node.inputs
    if any(value is None or value.const_value is None for value in (scale, zero, y_scale, y_zero)):
        return None
    assert scale is not None and y_scale is not None and y_zero is not None
    alone = {"IntegerSigmoid": (1 / 256, 0), "IntegerTanh": (1 / 128, 128)}.get(node.op_type)
    if alone is not None and alone != (float(tensors.array(y_scale)), int(tensors.array(y_zero))):
        return None
    edit = Edit(node)
    steepness = float(np.float32(SIGMOIDS[node.op_type] * tensors.array(scale)))
    step = 1 / 256 if alone is not None else float(np.float32(1 / 255))  # of a gate, 1 has a code
    gate_step, none = edit.scalar("gate_step", step, ir.DataType.FLOAT), edit.scalar("none", 0, ir.DataType.UINT8)
    steeper = edit.scalar("steeper", steepness, ir.DataType.FLOAT)
    result = edit.op("QLinearSigmoid", x, steeper, zero, gate_step, none, domain=MICROSOFT, name="gate")
    if alone is None:
        inputs = (x, scale, zero, result, gate_step, none, y_scale, y_zero)
        result = edit.op("QLinearMul", *inputs, domain=MICROSOFT, name="codes")
    edit.replace(node.outputs[0], result)
    return Site(node.name or "", (node.op_type,), "by the runtime's table of the sigmoid")


def _norm(node: ir.Node) -> Site:
    """The float operator between codes."""
    x, scale, *rest, y_scale, y_zero = node.inputs
    zero = [rest.pop(0)] if node.op_type == "IntegerRMSNorm" else []  # the other does not depend on it
    *parameters, epsilon = rest
    edit = Edit(node)
    value = edit.op("DequantizeLinear", x, scale, *zero, name="value")
    assert epsilon is not None
    options: dict[str, Any] = {"axis": -1, "epsilon": float(tensors.array(epsilon))}
    normalized = edit.op(NORMS[node.op_type], value, *parameters, name="norm", **options)
    edit.replace(node.outputs[0], edit.op("QuantizeLinear", normalized, y_scale, y_zero, name="codes"))
    return Site(node.name or "", (node.op_type,), "the float operator between codes")


def _softmax(model: ir.Model, node: ir.Node) -> Site | None:
    if len(node.inputs) != 5:
        return None
    edit = Edit(node)
    options: dict[str, Any] = {"axis": -1, "opset": 13}
    edit.replace(node.outputs[0], edit.op("QLinearSoftmax", *node.inputs, domain=MICROSOFT, name="codes", **options))
    return Site(node.name or "", (node.op_type,), "by the runtime's byte-sized softmax")


def _attention(model: ir.Model, node: ir.Node) -> Site | None:
    """Scores of 8 bits in a calibrated scale, and the exponential by the runtime's table of the sigmoid."""
    scores = node.outputs[0].meta.get(SCORES)
    scale = score_scale(scores) if isinstance(scores, Scores) else None
    if scale is None:
        return None
    edit = Edit(node)
    values = list(node.inputs)
    if node.op_type == "IntegerAttention":
        keys = edit.op("Concat", edit.shape("one", [1]), edit.op("Shape", values[3], start=2, end=3), axis=0)
        ones: dict[str, Any] = {"value": ir.tensor([1], dtype=ir.DataType.UINT8)}
        values.insert(9, edit.op("ConstantOfShape", keys, name="keep", **ones))
    values[11:11] = [
        edit.scalar("scores_scale", scale[0], ir.DataType.FLOAT),
        edit.scalar("scores_zero_point", scale[1], ir.DataType.UINT8),
    ]
    name = "IntegerMaskedAttentionOrtCpu"
    context = edit.op(name, *values, domain=functions.use(model, name), name="codes")
    edit.replace(node.outputs[0], context)
    return Site(node.name or "", (node.op_type,), f"scores in steps of {scale[0]:.2f}, exponentials by a table")


def score_scale(scores: Scores) -> tuple[float, int] | None:
    """Scale and zero point of uint8 scores; None where 8 bits do not hold what `attention_ort_cpu` asks for.

    The row maxima lie between the least and the greatest, with a twentieth of that on either side where there is room.
    Below them there is room for what is not negligible beside them, and above for where the sigmoid is an exponential.
    """
    if not scores.known:
        return None
    spread = scores.greatest - scores.least
    return _score_scale(scores, spread / 20) or _score_scale(scores, 0.0)


def _score_scale(scores: Scores, margin: float) -> tuple[float, int] | None:
    lowest, highest = scores.least - margin - RANGE, scores.greatest + margin + HIGHEST
    step = max(FINEST, (highest - lowest) / 253)
    zero = max(0, math.ceil(-lowest / step))
    fits = zero <= 255 and zero + highest / step <= 255
    return (float(np.float32(step)), zero) if fits and step <= COARSEST else None


_ATTENTIONS = dict.fromkeys(("IntegerAttention", "IntegerMaskedAttention"), _attention)
_LOWERINGS = {**dict.fromkeys(SIGMOIDS, _sigmoid), "IntegerSoftmax": _softmax, **_ATTENTIONS}
