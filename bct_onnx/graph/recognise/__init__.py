"""Recognise what a part of a graph computes by running it, not by how it is spelled.

Exporters spell one function in many ways: GELU alone has some ten spellings, each in several operand orders. A
recogniser starts at an operator that every spelling contains (``Erf``, ``ReduceMean``, ``Exp``), grows a `Region`
around it that has one input and one output, runs the region on sample points in float64 and compares with the formula.
What agrees everywhere is the function; what comes close but is not the same is refused with the distance.
"""

from bct_onnx.graph.recognise.attention import Attention, attention
from bct_onnx.graph.recognise.heads import Heads
from bct_onnx.graph.recognise.pointwise import FUNCTIONS, Pointwise, pointwise
from bct_onnx.graph.recognise.region import Region, between, evaluate, is_constant
from bct_onnx.graph.recognise.rows import Norm, Softmax, norm, parameter, softmax
from bct_onnx.graph.recognise.scores import Mask
from bct_onnx.graph.recognise.splits import Join, Split, join_of, split_of

__all__ = [
    "FUNCTIONS",
    "Attention",
    "Heads",
    "Join",
    "Mask",
    "Norm",
    "Pointwise",
    "Region",
    "Softmax",
    "Split",
    "attention",
    "between",
    "evaluate",
    "is_constant",
    "join_of",
    "norm",
    "parameter",
    "pointwise",
    "softmax",
    "split_of",
]
