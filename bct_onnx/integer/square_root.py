"""Integer square root by Newton's iteration, unrolled: one value per row, for the variance of a normalization.

    x0 = a power of sqrt(2) above sqrt(v);    x[k+1] = floor((x[k] + floor(v / x[k])) / 2);    y = min(x[4], x[5])

Source: I-BERT (Kim et al. 2021, arXiv 2101.01321), algorithm 4, which starts from a power of two and loops. Here the
start comes from a table by the number of bits of v, so a fixed number of steps is enough for every v: an iterate that
is too large by the factor 1 + e becomes too large by e^2 / (2 + 2e), from 0.42 (at most 1 for v < 4) over 0.062, 0.0018
and 1.6e-6 to 1.3e-12, which is less than 1 for every root below 2^31. From floor(sqrt(v)) + 1 a step reaches
floor(sqrt(v)), from there it may go back up by one: hence the minimum of the last two.

Error: none. The result is floor(sqrt(v)) for 1 <= v < 2^62; v = 0 is invalid.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnxscript import script

from bct_onnx.integer.kernel import BCT, UINT8, Array, Tensor, op

BITS = 62
POWERS = np.array([1 << bit for bit in range(BITS)], np.int64)
STARTS = np.array([1, *(math.isqrt((2 << bit) - 1) + 1 for bit in range(BITS))], np.int64)
FLOAT, INT64 = int(onnx.TensorProto.FLOAT), int(onnx.TensorProto.INT64)
ONES = np.ones((BITS, 1), np.int8)


def i64(value: object) -> onnx.TensorProto:
    """A constant of int64 for ``op.Constant(value=i64(...))``: values of whole rows may need it."""
    return onnx.numpy_helper.from_array(np.asarray(value, np.int64))


@script(BCT, default_opset=op)
def IntegerSquareRoot(v: Tensor) -> Tensor:
    """floor(sqrt(v)) of int64 values [..., 1], exact for 1 <= v < 2^62: five Newton steps after I-BERT from a start
    taken from a table by the number of bits.
    """
    two = op.Constant(value=i64(2))
    reached = op.Cast(op.GreaterOrEqual(v, op.Constant(value=i64(POWERS))), to=UINT8)
    bits = op.MatMulInteger(reached, op.Constant(value=onnx.numpy_helper.from_array(ONES)))
    x0 = op.Gather(op.Constant(value=i64(STARTS)), bits)
    x1 = op.Div(op.Add(x0, op.Div(v, x0)), two)
    x2 = op.Div(op.Add(x1, op.Div(v, x1)), two)
    x3 = op.Div(op.Add(x2, op.Div(v, x2)), two)
    x4 = op.Div(op.Add(x3, op.Div(v, x3)), two)
    x5 = op.Div(op.Add(x4, op.Div(v, x4)), two)
    return op.Min(x4, x5)


def square_root(v: Array) -> Array:
    """`IntegerSquareRoot` in numpy: int64 [..., 1] to int64 [..., 1]."""
    last = x = STARTS[(v >= POWERS).sum(-1, keepdims=True)]
    for _ in range(5):
        last, x = x, (x + v // x) // 2
    found: Array = np.minimum(last, x)
    return found
