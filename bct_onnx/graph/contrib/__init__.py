"""ONNX Runtime's own operators ("contrib operators"): what each stands for in standard ones.

The definitions are those of microsoft/onnxruntime docs/ContribOperators.md; where that leaves something open the rules
follow the kernels of the CPU provider, against which the tests hold them.
"""

from __future__ import annotations

import onnx_ir as ir

from bct_onnx.graph import kernels
from bct_onnx.graph.contrib import activations, attention, grouped, norms, products, rotary
from bct_onnx.graph.contrib.lifting import Lift, Made, Rule
from bct_onnx.graph.kernels import MICROSOFT

__all__ = ["LAYOUTS", "MICROSOFT", "NEEDS", "RULES", "Lift", "Made", "Rule", "is_own"]

RULES: dict[str, Rule] = {
    **activations.RULES,
    **attention.RULES,
    **grouped.RULES,
    **norms.RULES,
    **products.RULES,
    **rotary.RULES,
}
"""By operator."""

NEEDS: dict[str, str] = {
    "Attention": "Attention",
    "GroupQueryAttention": "Attention",
    "MultiHeadAttention": "Attention",
    "RotaryEmbedding": "RotaryEmbedding",
    "SimplifiedLayerNormalization": "RMSNormalization",
    "SkipSimplifiedLayerNormalization": "RMSNormalization",
}
"""The standard operator, not in all opsets, that some are lifted to."""

LAYOUTS = ("com.microsoft.nchwc", "com.ms.internal.nhwc")
"""Domains of operators in a layout that one kind of processor likes, which ONNX Runtime makes at its highest level."""


def is_own(node: ir.Node) -> bool:
    """Whether an operator is ONNX Runtime's own."""
    return node.domain == MICROSOFT or (node.domain == "" and kernels.is_own(node.op_type))
