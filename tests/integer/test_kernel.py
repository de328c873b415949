"""What holds for every kernel by being one, and that the harness notices what it is there to notice."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx.inliner
import onnx_ir as ir
import pytest
from onnxscript import script

from bct_onnx.graph import functions
from bct_onnx.integer import KERNELS, Kernel, float_values_depending_on_codes, model_functions, model_of
from bct_onnx.integer.kernel import BCT, FLOAT, INT32, UINT8, Array, Tensor, i32, op
from tests.integer import harness

every = pytest.mark.parametrize("kernel", KERNELS.values(), ids=str)


@every
def test_nothing_between_codes_and_codes_is_float(kernel: Kernel) -> None:
    harness.integer(kernel)


@every
def test_functions_are_described_named_standard_and_the_same_every_time(kernel: Kernel) -> None:
    found = model_functions(kernel)
    assert found[-1].name == kernel.name
    for function in found:
        assert function.doc_string and "\n" not in function.doc_string
        assert function.opset_imports[""] == 23
        names = [node.name for node in function]
        assert len(set(names)) == len(names)
        assert all(
            name == f"{function.name}/{node.outputs[0].name}" for name, node in zip(names, function, strict=True)
        )
        assert {node.domain for node in function} <= {"", functions.DOMAIN}
    again = model_functions(kernel)
    assert [ir.to_proto(f).SerializeToString(deterministic=True) for f in found] == [
        ir.to_proto(f).SerializeToString(deterministic=True) for f in again
    ]


@every
def test_a_model_gets_a_kernel_with_what_it_calls(kernel: Kernel) -> None:
    model = model_of(kernel)
    model.functions.clear()
    model.opset_imports.pop(functions.DOMAIN)
    for _ in range(2):
        assert functions.use(model, kernel.name) == functions.DOMAIN
    assert [f.name for f in model.functions.values()] == [f.name for f in model_functions(kernel)]
    assert model.opset_imports[functions.DOMAIN] == 1


def test_an_unknown_function_is_refused() -> None:
    with pytest.raises(KeyError, match="IntegerNothing"):
        functions.use(model_of(KERNELS["IntegerGelu"]), "IntegerNothing")


@script(BCT, default_opset=op)
def Halve(x: Tensor, x_scale: Tensor) -> Tensor:
    """Half the codes, in float in between."""
    real = op.Mul(op.Cast(x, to=FLOAT), x_scale)
    return op.Cast(op.Div(real, op.Add(x_scale, x_scale)), to=UINT8)


@script(BCT, default_opset=op)
def Power(x: Tensor, x_scale: Tensor) -> Tensor:
    """The fourth power of the codes, mod 256, too large for int32; the scale changes nothing."""
    square = op.Mul(op.Cast(x, to=INT32), op.Cast(x, to=INT32))
    nothing = op.Cast(op.Floor(op.Div(x_scale, op.Add(x_scale, x_scale))), to=INT32)
    return op.Cast(op.Add(op.Mul(square, square), nothing), to=UINT8)


@script(BCT, default_opset=op)
def Cut(x: Tensor) -> Tensor:
    """Codes up to 9."""
    return op.Cast(op.Min(op.Cast(x, to=INT32), op.Constant(value=i32(9))), to=UINT8)


def _kernel(function: Any, reference: Any) -> Kernel:
    return Kernel(function, reference, None, None)


def power(x: Array, x_scale: Array) -> Array:
    return (x.astype(np.int64) ** 4).astype(np.uint8)


def cut(x: Array) -> Array:
    return np.minimum(x, 9).astype(np.uint8)


def test_floats_on_the_way_are_found() -> None:
    assert float_values_depending_on_codes(_kernel(Halve, power)) != []
    assert float_values_depending_on_codes(_kernel(Power, power)) == []


def test_leaving_int32_is_found() -> None:
    scale = harness.scale(1.0)
    small = {"x": np.arange(200, dtype=np.uint8), "x_scale": scale}
    harness.agree(_kernel(Power, power), small)
    with pytest.raises(AssertionError, match="leaves 32 bits"):
        harness.agree(_kernel(Power, power), {"x": harness.every_code(np.uint8), "x_scale": scale})


def test_another_result_is_found() -> None:
    feeds = {"x": harness.every_code(np.uint8)}
    harness.agree(_kernel(Cut, cut), feeds)
    with pytest.raises(AssertionError, match="reference evaluator"):
        harness.agree(_kernel(Cut, lambda x: np.minimum(x, 10)), feeds)


def test_a_constant_without_effect_is_found() -> None:
    harness.wrong_constants_are_noticed(_kernel(Cut, cut), [{"x": harness.every_code(np.uint8)}])
    with pytest.raises(AssertionError, match="Cut/"):
        harness.wrong_constants_are_noticed(_kernel(Cut, cut), [{"x": np.array([0, 1], np.uint8)}])


def test_an_error_above_the_bound_is_found() -> None:
    gelu = KERNELS["IntegerGelu"]
    feeds = harness.unary(harness.every_code(np.uint8), harness.scale(0.05), 128, harness.scale(0.04), 8)
    found = harness.refer(gelu, feeds)
    harness.within_bound(gelu, feeds, found)
    strict = dataclasses.replace(gelu, bound=lambda x_scale, y_scale: 0.5 * y_scale)
    with pytest.raises(AssertionError, match="bound"):
        harness.within_bound(strict, feeds, found)


def test_a_kernel_survives_inlining_with_its_names() -> None:
    proto = harness.model(
        KERNELS["IntegerSilu"], harness.unary(harness.every_code(np.int8), harness.scale(0.1), 0, harness.scale(0.1), 8)
    )
    inlined = onnx.inliner.inline_local_functions(proto)
    onnx.checker.check_model(inlined, full_check=True)
    assert not inlined.functions
