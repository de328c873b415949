"""One table of operators: what kind each is of, and what its inputs are.

An operator is named as in target files: ``MatMul``, ``com.microsoft::QGemm``, ``ai.bct::Unpack``. Lists of operators
that ask what all operators of some kind have in common are made from it; a list of what one rewrite can handle stays
with the rewrite.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import onnx_ir as ir

Kind = Literal[
    "view",
    "layout",
    "repeat",
    "part",
    "pick",
    "join",
    "cast",
    "arithmetic",
    "activation",
    "test",
    "choice",
    "product",
    "convolution",
    "integer product",
    "integer convolution",
    "few-bit product",
    "lookup",
    "coded",
    "quantizer",
    "decoder",
    "normalization",
    "attention",
    "recurrence",
    "softmax",
    "reduction",
    "decision",
    "shape",
    "random",
    "control",
    "other",
]

_KINDS: dict[Kind, str] = {
    # The numbers of the first input, at other places.
    "view": "Reshape Squeeze Unsqueeze Flatten Identity",
    "layout": "Transpose DepthToSpace SpaceToDepth ReverseSequence",
    "repeat": "Expand Tile",
    "part": "Slice Split",
    "pick": "Gather GatherElements GatherND Compress",
    # Those of all inputs, one after the other; those of the input, in another type.
    "join": "Concat",
    "cast": "Cast CastLike",
    # Each element from the elements at its place: numbers, nonlinear functions of one, true or false, one of two.
    "arithmetic": """
        Abs Acos Acosh Add Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil Clip Cos Cosh
        Div Erf Exp Floor Log Max Mean Min Mod Mul Neg Pow Reciprocal Round Sign Sin Sinh Sqrt Sub Sum Tan""",
    "activation": """
        Celu Elu Gelu HardSigmoid HardSwish LeakyRelu Mish PRelu Relu Selu Shrink Sigmoid Softplus Softsign Swish Tanh
        ThresholdedRelu com.microsoft::Gelu com.microsoft::QuickGelu""",
    "test": "And Equal Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Not Or Xor",
    "choice": "Where",
    # Sums of products, by what is multiplied: floats; integers of 8 bits; floats and a weight of fewer bits.
    "product": "MatMul Gemm com.microsoft::FusedMatMul com.microsoft::FusedGemm",
    "convolution": "Conv ConvTranspose com.microsoft::FusedConv",
    "integer product": """
        MatMulInteger QLinearMatMul com.microsoft::MatMulInteger16 com.microsoft::MatMulIntegerToFloat
        com.microsoft::DynamicQuantizeMatMul com.microsoft::QGemm com.microsoft::QAttention
        com.microsoft::DynamicQuantizeLSTM com.microsoft::QOrderedMatMul com.microsoft::QOrderedAttention""",
    "integer convolution": """
        ConvInteger QLinearConv com.microsoft::QLinearConv com.ms.internal.nhwc::QLinearConv
        com.ms.internal.nhwc::QLinearConvTranspose""",
    "few-bit product": """
        com.microsoft::MatMulNBits com.microsoft::MatMulNBitsMlp com.microsoft::MatMulNBitsQLoRA
        com.microsoft::MatMulNBitsQkv com.microsoft::MatMulBnb4 com.microsoft::QMoE""",
    # Rows of a table of codes, decoded; others that take codes and give codes; floats to codes and back.
    "lookup": """
        com.microsoft::GatherBlockQuantized ai.bct::GatherBlocks ai.bct::GatherPlanes ai.bct::GatherSlices
        ai.bct::GatherRows ai.bct::GatherMixed""",
    "coded": """
        com.microsoft::QEmbedLayerNormalization com.microsoft::QLinearAdd com.microsoft::QLinearAveragePool
        com.ms.internal.nhwc::QLinearAveragePool com.microsoft::QLinearConcat
        com.microsoft::QLinearGlobalAveragePool com.microsoft::QLinearLeakyRelu
        com.microsoft::QLinearMul com.microsoft::QLinearReduceMean com.microsoft::QLinearSigmoid
        com.microsoft::QLinearSoftmax com.microsoft::QLinearWhere com.microsoft::QOrderedGelu
        com.microsoft::QOrderedLayerNormalization com.microsoft::QOrderedLongformerAttention""",
    "quantizer": """
        QuantizeLinear DequantizeLinear DynamicQuantizeLinear com.microsoft::QuantizeLinear
        com.microsoft::DequantizeLinear""",
    # Codes of weights, made integers or floats once a model is loaded.
    "decoder": """
        ai.bct::Unpack ai.bct::UnpackPlanes ai.bct::UnpackSlices ai.bct::ExpandColumns ai.bct::DecodeInt8
        ai.bct::DecodeInt8Offset""",
    "normalization": """
        LayerNormalization RMSNormalization SimplifiedLayerNormalization GroupNormalization InstanceNormalization
        ai.bct::IntegerLayerNorm ai.bct::IntegerRMSNorm""",
    "attention": """
        Attention com.microsoft::Attention com.microsoft::MultiHeadAttention com.microsoft::GroupQueryAttention
        ai.bct::IntegerAttention ai.bct::IntegerMaskedAttention""",
    "recurrence": "RNN GRU LSTM",
    "softmax": "Softmax LogSoftmax ai.bct::IntegerSoftmax ai.bct::IntegerMaskedSoftmax",
    "reduction": """
        ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
        ReduceSumSquare""",
    # Results that jump where two numbers are nearly alike; that come from sizes alone; that differ from run to run.
    "decision": "ArgMax ArgMin TopK Hardmax NonMaxSuppression",
    "shape": "Shape Size ConstantOfShape",
    "random": "Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike",
    # Graphs within.
    "control": "If Loop Scan",
}

_CONVOLUTION = "activation scale zero-point weight weight-scale weight-zero-point result-scale result-zero-point bias"

_INPUTS = {
    "MatMul": "activation weight",
    "Gemm": "activation weight bias",
    "Conv": "activation weight bias",
    "ConvTranspose": "activation weight bias",
    "MatMulInteger": "activation weight zero-point weight-zero-point",
    "ConvInteger": "activation weight zero-point weight-zero-point",
    "QLinearMatMul": """
        activation scale zero-point weight weight-scale weight-zero-point result-scale result-zero-point""",
    "QLinearConv": _CONVOLUTION,
    "com.microsoft::QLinearConv": _CONVOLUTION,
    "com.ms.internal.nhwc::QLinearConv": _CONVOLUTION,
    "com.microsoft::MatMulIntegerToFloat": """
        activation weight scale weight-scale zero-point weight-zero-point bias""",
    "com.microsoft::DynamicQuantizeMatMul": "activation weight weight-scale weight-zero-point bias",
    "com.microsoft::QGemm": """
        activation scale zero-point weight weight-scale weight-zero-point bias result-scale result-zero-point""",
    "com.microsoft::QAttention": """
        activation weight bias scale weight-scale mask zero-point weight-zero-point past""",
    "com.microsoft::DynamicQuantizeLSTM": """
        activation weight recurrence bias lengths hidden cell peephole weight-scale weight-zero-point recurrence-scale
        recurrence-zero-point""",
    "com.microsoft::MatMulNBits": "activation weight weight-scale weight-zero-point order bias",
    "com.microsoft::MatMulBnb4": "activation weight weight-scale",
    "Gather": "weight indices",
    "com.microsoft::GatherBlockQuantized": "weight indices weight-scale weight-zero-point",
    "QuantizeLinear": "activation scale zero-point",
    "com.microsoft::QuantizeLinear": "activation scale zero-point",
    "DequantizeLinear": "activation scale zero-point",
    "com.microsoft::DequantizeLinear": "activation scale zero-point",
    "LayerNormalization": "activation gain bias",
    "RMSNormalization": "activation gain",
    "GroupNormalization": "activation gain bias",
    "InstanceNormalization": "activation gain bias",
    "ai.bct::GatherBlocks": "weight multipliers weight-scale indices",
    "ai.bct::GatherPlanes": "weight multipliers weight-scale indices",
    "ai.bct::GatherSlices": "weight multipliers weight-scale indices",
    "ai.bct::GatherRows": "weight weight-scale indices",
    "ai.bct::GatherMixed": "place weight weight weight weight weight-scale indices",
    "ai.bct::IntegerAdd": "activation scale zero-point addend addend-scale addend-zero-point result-scale",
}


@dataclasses.dataclass(frozen=True)
class Operator:
    """What is known of an operator.

    Attributes:
        name: As target files write it.
        kind: What it has in common with others; other for those that no question is asked about.
        inputs: The role of each input, such as weight, scale, zero-point, bias; empty where none is asked about.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...] = ()

    def role(self, index: int) -> str:
        """The role of an input; empty where it has none."""
        if index < len(self.inputs):
            return self.inputs[index]
        return ""

    def place(self, role: str) -> int | None:
        """The input that has a role."""
        if role in self.inputs:
            return self.inputs.index(role)
        return None


def name(domain: str, op_type: str) -> str:
    """An operator's name in this table and in target files.

    >>> name("", "MatMul"), name("com.microsoft", "QGemm")
    ('MatMul', 'com.microsoft::QGemm')
    """
    if domain:
        return f"{domain}::{op_type}"
    return op_type


def identifier(node: ir.Node) -> str:
    """The operator of a node: ``Gelu``, or with a domain ``com.microsoft::QGemm``."""
    return name(node.domain, node.op_type)


def dotted(node: ir.Node) -> str:
    """The operator of a node as figures have it: ``Gelu``, or with a domain ``com.microsoft.QGemm``."""
    return f"{node.domain}.{node.op_type}".removeprefix(".")


def of(node: ir.Node) -> Operator:
    """What is known of a node's operator.

    >>> gemm = of(ir.Node("com.microsoft", "QGemm", []))
    >>> gemm.kind, gemm.place("weight"), gemm.role(6)
    ('integer product', 3, 'bias')
    """
    operator = identifier(node)
    return _table().get(operator) or Operator(operator, "other")


def kind(node: ir.Node) -> Kind:
    """What a node's operator has in common with others."""
    return of(node).kind


@functools.cache
def named(*kinds: Kind) -> frozenset[str]:
    """The operators of some kinds, by name; those of ONNX's own have no domain in it.

    >>> sorted(named("cast", "join"))
    ['Cast', 'CastLike', 'Concat']
    """
    return frozenset(operator.name for operator in _table().values() if operator.kind in kinds)


MOVES: tuple[Kind, ...] = ("view", "layout", "repeat", "part", "pick")
"""Kinds that give the numbers of their first input at other places."""

QUANTIZED: tuple[Kind, ...] = (
    "quantizer",
    "integer product",
    "integer convolution",
    "few-bit product",
    "lookup",
    "coded",
)
"""Kinds that only quantizers make: QDQ, dynamic, weight-only, of ONNX and of ONNX Runtime."""


@functools.cache
def _table() -> dict[str, Operator]:
    table: dict[str, Operator] = {}
    for one_kind, names in _KINDS.items():
        for operator in names.split():
            table[operator] = Operator(operator, one_kind)
    for operator, roles in _INPUTS.items():
        known = table.get(operator) or Operator(operator, "other")
        table[operator] = dataclasses.replace(known, inputs=tuple(roles.split()))
    return table
