"""Integer square root by Newton's iteration, unrolled: one value per row, for the variance of a normalization.

    x0 = the power of two above sqrt(v);    x[k+1] = floor((x[k] + floor(v / x[k])) / 2);    y = min(x[5], x[6])

Source: I-BERT (Kim et al. 2021, arXiv 2101.01321), algorithm 4, which loops until the value stops falling. Here a fixed
number of steps is enough for every v: an iterate that is too large by the factor 1 + e becomes too large by
e^2 / (2 + 2e), from 1 over 0.25, 0.025, 3.1e-4 and 4.7e-8 to 1.1e-15, which is less than 1 for every root below 2^31.
From floor(sqrt(v)) + 1 a step reaches floor(sqrt(v)), from there it may go back up by one: hence the minimum of the
last two.

Error: none. The result is floor(sqrt(v)) for 1 <= v < 2^62 - 2^32 (Min of ONNX Runtime is wrong from 2^31 on); v = 0 is
invalid.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnxscript import script

from bct_onnx.integer.kernel import BCT, UINT8, Array, Tensor, op

POWERS = np.array([4**k for k in range(31)], np.int64)
STARTS = np.array([2**k for k in range(32)], np.int64)  # by how many of POWERS are not above v
ONES = np.ones((31, 1), np.int8)
FLOAT, INT64 = int(onnx.TensorProto.FLOAT), int(onnx.TensorProto.INT64)


def i64(value: object) -> onnx.TensorProto:
    """A constant of int64 for ``op.Constant(value=i64(...))``: values of whole rows may need it."""
    return onnx.numpy_helper.from_array(np.asarray(value, np.int64))


@script(BCT, default_opset=op)
def IntegerSquareRoot(v: Tensor) -> Tensor:
    """floor(sqrt(v)) of int64 values, exact for 1 <= v < 2^62 - 2^32: six Newton steps after I-BERT from the power of
    two above the root.
    """
    two = op.Constant(value=i64(2))
    last = op.Constant(value=i64([-1]))
    reached = op.Cast(op.GreaterOrEqual(op.Unsqueeze(v, last), op.Constant(value=i64(POWERS))), to=UINT8)
    count = op.MatMulInteger(reached, op.Constant(value=onnx.numpy_helper.from_array(ONES)))
    x0 = op.Gather(op.Constant(value=i64(STARTS)), op.Squeeze(count, last))
    x1 = (x0 + v / x0) / two
    x2 = (x1 + v / x1) / two
    x3 = (x2 + v / x2) / two
    x4 = (x3 + v / x3) / two
    x5 = (x4 + v / x4) / two
    x6 = (x5 + v / x5) / two
    return op.Min(x5, x6)


def square_root(v: Array) -> Array:
    """`IntegerSquareRoot` in numpy: int64 to int64, any shape."""
    last = x = STARTS[(v[..., None] >= POWERS).sum(-1)]
    for _ in range(6):
        last, x = x, (x + v // x) // 2
    root: Array = np.minimum(last, x)
    return root
