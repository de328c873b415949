"""The exponentials that kernels share: close to exp, alike in numpy and as graphs, and nothing beyond 32 bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxscript import script

from bct_onnx.integer import Kernel
from bct_onnx.integer.exp import ExpOfMagnitude, IntegerExp, ShiftExp, exp_of_magnitude, integer_exp, shift_exp
from bct_onnx.integer.kernel import BCT, UINT8, Array, Tensor, i32, op
from tests.integer import harness

Exp = Callable[[Array, Array, int], tuple[Array, Array]]
REFERENCES: dict[str, Exp] = {"IntegerExp": integer_exp, "ShiftExp": shift_exp, "ExpOfMagnitude": exp_of_magnitude}


@script(BCT, default_opset=op)
def TopOfIntegerExp(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The share of 1 as a code."""
    y, one = IntegerExp(x, scale, shift)
    return op.Cast(op.Div(y, op.Add(op.Div(one, op.Constant(value=i32(255))), op.Constant(value=i32(1)))), to=UINT8)


@script(BCT, default_opset=op)
def TopOfShiftExp(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The share of 1 as a code."""
    y, one = ShiftExp(x, scale, shift)
    return op.Cast(op.Div(y, op.Add(op.Div(one, op.Constant(value=i32(255))), op.Constant(value=i32(1)))), to=UINT8)


@script(BCT, default_opset=op)
def TopOfExpOfMagnitude(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The share of 1 as a code."""
    y, one = ExpOfMagnitude(x, scale, shift)
    return op.Cast(op.Div(y, op.Add(op.Div(one, op.Constant(value=i32(255))), op.Constant(value=i32(1)))), to=UINT8)


def kernel(function: Any) -> Kernel:
    def reference(x: Array, scale: Array, shift: Array) -> Array:
        y, one = REFERENCES[function.name.removeprefix("TopOf")](x, scale, int(shift))
        found: Array = (y // (one // 255 + 1)).astype(np.uint8)
        return found

    return Kernel(function, reference, None, None, types=dict.fromkeys(("x", "shift"), ir.DataType.INT32))


def depths(end: int) -> Array:
    """0 to beyond ``end``, all of the small ones, and the greatest int32."""
    spaced = np.geomspace(1, max(end, 2), 3000).astype(np.int32)
    return np.concatenate([np.arange(300, dtype=np.int32), spaced, np.array([2**31 - 1], np.int32)])[None]


@pytest.mark.parametrize("shift", [0, 8, 30])
@pytest.mark.parametrize(
    ("function", "exponents"),
    [(TopOfIntegerExp, (-14, -12.5, -9, -5)), (TopOfShiftExp, (-25, -14, -12.5, -9, -5))],
    ids=["IntegerExp", "ShiftExp"],
)
def test_graph_and_numpy_agree(function: Any, exponents: tuple[float, ...], shift: int) -> None:
    for exponent in exponents:
        scale = harness.scale(2.0**exponent)
        feeds = {"x": depths(int(30 / scale)), "scale": scale, "shift": np.array(shift, np.int32)}
        harness.agree(kernel(function), feeds, levels=("disabled", "all"))


def test_graph_and_numpy_agree_on_magnitudes() -> None:
    scales = harness.scale(1e-30, 1e-4, *harness.SCALES, 30.0, 1e9)
    x = np.tile(np.arange(256, dtype=np.int32), (len(scales), 1))
    for shift in (0, 9, 12):
        harness.agree(kernel(TopOfExpOfMagnitude), {"x": x, "scale": scales, "shift": np.array(shift, np.int32)})


@given(exponent=st.floats(-14, -5), shift=st.integers(0, 11))  # at 2^-5 "one" has 12 bits
def test_integer_exp_is_as_close_as_stated(exponent: float, shift: int) -> None:
    scale = np.float32(2**exponent)
    close(integer_exp, scale, shift, 0.00196)


@given(exponent=st.floats(-25, -5), shift=st.integers(0, 3))
def test_shift_exp_is_as_close_as_stated(exponent: float, shift: int) -> None:
    close(shift_exp, np.float32(2**exponent), shift, 0.0431)


@given(scale=st.floats(2**-12, 100, width=32))
def test_exp_of_magnitude_is_as_close_as_stated(scale: float) -> None:
    x = np.arange(256, dtype=np.int32)
    y, one = exp_of_magnitude(x, harness.scale(scale), 9)
    assert 2**16 <= one < 2**18
    assert np.abs(y / one - np.exp(-np.float64(np.float32(scale)) * x)).max() <= 0.00196 + 1 / 3400


def close(function: Exp, scale: Any, shift: int, error: float) -> None:
    x = depths(int(30 / scale))
    y, one = function(x, np.asarray(scale), shift)
    assert np.all(y >= 0) and np.all(y <= one)
    assert np.abs(y / one - np.exp(-np.float64(scale) * x)).max() <= error + scale + 1 / float(one)
