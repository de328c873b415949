"""Any function of one code as a table of 256 results: correctly rounded, and one operator.

    y = table[code mod 256]

A negative index counts from the end, so that the codes -128..-1 of int8 find entries 128..255: one table layout and
one body, Cast and Gather (2 passes), for uint8 and int8. The table is exact: each entry is the real function, in
float64, of the code's real value, rounded to the nearest output code (ties to even, as QuantizeLinear does). Bound:
0.5 s_y, but one scale for the whole tensor. In ONNX Runtime on a CPU the Gather takes about 9 ns per element: 1.5 times
as long as `IntegerGelu`, a little less than the 29 passes of `IntegerSigmoid` and its kind, five times as long as
float32 between DequantizeLinear and QuantizeLinear. On hardware with table units it is the cheapest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
from onnxscript import script

from bct_onnx.integer.gelu import exact_gelu
from bct_onnx.integer.kernel import BCT, INT32, Array, Kernel, Tensor, op
from bct_onnx.integer.sigmoid import exact_sigmoid, exact_silu


def exact_tanh_gelu(x: Array) -> Array:
    """GELU's usual approximation x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), float64."""
    y: Array = np.asarray(x) / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * np.power(x, 3))))
    return y


FUNCTIONS: Mapping[str, Callable[[Array], Array]] = {
    "Exp": np.exp,
    "Gelu": exact_gelu,
    "GeluTanh": exact_tanh_gelu,
    "Sigmoid": exact_sigmoid,
    "Silu": exact_silu,
    "Tanh": np.tanh,
}
"""Real functions by name, float64 to float64."""


@script(BCT, default_opset=op)
def Lookup(x: Tensor, table: Tensor) -> Tensor:
    """Any function of codes by a table of 256 results: entry code mod 256, exact (half a step of the result)."""
    return op.Gather(table, op.Cast(x, to=INT32))


def lookup(x: Array, table: Array) -> Array:
    """`Lookup` in numpy: ``x`` uint8 or int8 codes, ``table`` [256] as `table_of` makes it."""
    codes: Array = table[x.astype(np.int32)]
    return codes


def table_of(
    function: str | Callable[[Array], Array],
    x_scale: Array | np.generic,
    x_zero_point: Array | np.generic,
    y_scale: Array | np.generic,
    y_zero_point: Array | np.generic,
) -> Array:
    """The table of a function for `Lookup`, correctly rounded: [256], entry c mod 256 for the code c.

    >>> scale, zero_point = np.float32(1 / 16), np.array(0, np.int8)
    >>> table = table_of("Tanh", scale, zero_point, np.float32(1 / 128), np.array(128, np.uint8))
    >>> table[[-128, -16, 0, 16, 127]].tolist()
    [0, 31, 128, 225, 255]

    Args:
        function: A name in `FUNCTIONS`, or a function from float64 to float64.
        x_scale: Scalar float32: one for the whole tensor.
        x_zero_point: Scalar uint8 or int8: also the type of the codes to look up.
        y_scale: Scalar float32.
        y_zero_point: Scalar uint8 or int8: also the type of the table.

    Raises:
        KeyError: There is no such function.
        ValueError: A scale is not a scalar, or the function is not a number for some code.
    """
    if any(np.size(value) != 1 for value in (x_scale, x_zero_point, y_scale, y_zero_point)):
        raise ValueError("a table is for one scale and one zero point of the whole tensor")
    codes = np.arange(256).astype(np.uint8).view(x_zero_point.dtype).astype(np.float64)
    exact = FUNCTIONS[function] if isinstance(function, str) else function
    with np.errstate(over="ignore"):  # infinity is cut to the last code
        values = exact(float(x_scale.item()) * (codes - float(x_zero_point.item())))
        steps = np.rint(values / float(y_scale.item())) + float(y_zero_point.item())
    if np.any(np.isnan(steps)):
        raise ValueError("the function is not a number for some code")
    limits = np.iinfo(y_zero_point.dtype)
    return np.clip(steps, limits.min, limits.max).astype(y_zero_point.dtype)


KERNELS = (Kernel(Lookup, lookup, None, None, types={"table": ir.DataType.UINT8}),)
