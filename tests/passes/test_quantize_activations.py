"""int8 activations: what TokenScale and QuantizeLinear compute, and that a row depends on itself alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.base import Applied
from bct_onnx.errors import UsageError
from bct_onnx.forms import codes
from bct_onnx.graph import tensors
from bct_onnx.quant import quantize
from passes.calibrate import Calibrate
from passes.lower_weights import LowerWeights
from passes.quantize_activations import QuantizeActivations, levels_below_zero
from passes.quantize_weights import QuantizeWeights
from tests.passes.small import apply, close, model, normal, ops, outputs

W8 = QuantizeWeights(bits=8)
lowered = pytest.mark.parametrize("lowered", [False, True], ids=["portable", "ort-cpu"])
sided = pytest.mark.parametrize(("operator", "below"), [("", 128), ("Relu", 0), ("Gelu", 32), ("Sigmoid", 0)])


def quantized(
    text: str, *, per: Any = "token", lowered: bool = False, weights: QuantizeWeights = W8, **arrays: Any
) -> ir.Model:
    target = model(text, **arrays)
    for one in (weights, QuantizeActivations(per), *((LowerWeights(),) if lowered else ())):
        apply(one, target)
    return target


def matmul(k: int = 64, n: int = 32, operator: str = "", **options: Any) -> ir.Model:
    body = f"h = {operator} (x)  y = MatMul (h, w)" if operator else "y = MatMul (x, w)"
    return quantized(f"g (float[n,s,{k}] x) => (float[n,s,{n}] y) {{ {body} }}", w=normal(k, n), **options)


def reference(x: np.ndarray[Any, Any], below: int) -> np.ndarray[Any, Any]:
    """Rows quantized with `below` levels under zero and 255 - below above it, then multiplied by the decoded weight."""
    above, under = float(255 - below), float(min(below, 127) or 1)
    scale = np.maximum(x.max(-1, keepdims=True) / np.float32(above), x.min(-1, keepdims=True) / np.float32(-under))
    scale = np.maximum(scale, np.float32(1e-20)).astype(np.float32)
    codes = np.clip(np.rint(x / scale), -below, 255 - below)
    weight = quantize(normal(64, 32), W8.scheme).dequantize().astype(np.float64)
    product: np.ndarray[Any, Any] = (codes.astype(np.float64) * scale) @ weight
    return product.astype(np.float32)


@lowered
@sided
def test_equals_numpy(operator: str, below: int, lowered: bool) -> None:
    x = normal(2, 5, 64, seed=1, scale=3.0)
    target = matmul(operator=operator, lowered=lowered)
    (before,) = outputs(model(f"g (float[n,s,64] x) => (float[n,s,64] y) {{ y = {operator or 'Identity'} (x) }}"), x=x)[
        "disabled"
    ]
    want = reference(before, below)
    close(outputs(target, x=x)["disabled"][0], want, 1e-5)
    if lowered:  # at the portable level ONNX Runtime fuses the MatMul with its weight into kernels of its own
        close(outputs(target, x=x)["all"][0], want, 1e-5)
    else:
        close(outputs(target, x=x)["all"][0], want, 2e-2)


@lowered
def test_a_row_does_not_depend_on_other_rows(lowered: bool) -> None:
    target = matmul(lowered=lowered)
    x = normal(3, 7, 64, seed=1) * np.array([1, 1000, 0.001], np.float32)[:, None, None]
    whole = outputs(target, x=x)
    for i in range(3):
        for level, values in outputs(target, x=x[i : i + 1, 2:5]).items():
            np.testing.assert_array_equal(values[0], whole[level][0][i : i + 1, 2:5])


def test_per_tensor_does_depend_on_other_rows() -> None:
    """The reason for the default: this is what other tools give."""
    target = matmul(per="tensor", lowered=True)
    x = normal(2, 7, 64, seed=1) * np.array([1, 100], np.float32)[:, None, None]
    assert np.abs(outputs(target, x=x)["all"][0][:1] - outputs(target, x=x[:1])["all"][0]).max() > 0.05


@lowered
@pytest.mark.parametrize("per", ["token", "tensor"])
def test_zero_rows_give_zero(per: str, lowered: bool) -> None:
    x = normal(1, 4, 64, seed=1)
    x[0, 2] = 0
    for rows in (x, np.zeros_like(x)):
        for (got,) in outputs(matmul(per=per, lowered=lowered), x=rows).values():
            assert np.isfinite(got).all() and not got[0, 2].any()


@pytest.mark.parametrize("operator", ["", "Gelu", "Relu"])
@pytest.mark.parametrize("magnitude", [1e-30, 1e-12, 1e12, 1e30])
def test_rows_of_any_magnitude(magnitude: float, operator: str) -> None:
    x = (normal(1, 4, 64, seed=1) * magnitude).astype(np.float32)
    target = matmul(operator=operator, lowered=True)
    for (got,) in outputs(target, x=x).values():
        assert np.isfinite(got).all()


@lowered
def test_constant_rows(lowered: bool) -> None:
    x = np.ones((1, 2, 64), np.float32) * np.array([[[5.0], [-5.0]]], np.float32)
    weight = quantize(normal(64, 32), W8.scheme).dequantize()
    for (got,) in outputs(matmul(lowered=lowered), x=x).values():
        close(got, x @ weight, 2e-2)


def test_each_error_is_at_most_half_a_step() -> None:
    x = normal(1, 50, 64, seed=1)
    target = quantized("g (float[n,s,64] x) => (float[n,s,64] y) { y = MatMul (x, w) }", w=np.eye(64, dtype=np.float32))
    got = outputs(target, x=x)["disabled"][0]
    step = np.maximum(x.max(-1, keepdims=True), -x.min(-1, keepdims=True)) / 127
    assert (np.abs(got - x) <= 0.5001 * step).all()


def test_blocks_equal_numpy() -> None:
    x = normal(2, 5, 64, seed=1) * np.repeat(np.array([1, 100, 0.01, 0], np.float32), 16)
    target = model("g (float[n,s,64] x) => (float[n,s,64] y) { y = MatMul (x, w) }", w=np.eye(64, dtype=np.float32))
    for one in (W8, QuantizeActivations("block", block=16)):
        apply(one, target)
    got = outputs(target, x=x)["disabled"][0]
    blocks = x.reshape(2, 5, 4, 16)
    step = np.abs(blocks).max(-1, keepdims=True) / 127
    error = np.abs(got.reshape(2, 5, 4, 16) - blocks)
    assert (error <= 0.5001 * step + 1e-6 * np.abs(blocks)).all() and not got[..., 48:].any()


@pytest.mark.parametrize("scale", ["real", "shift"])
def test_calibrated_scales_depend_on_nothing_at_run_time(scale: Any) -> None:
    text = "g (float[n,s,64] x) => (float[n,s,64] y) { h = Neg (x)  y = MatMul (h, w) }"
    target = model(text, w=np.eye(64, dtype=np.float32))
    for one in (Calibrate(samples=32), W8, QuantizeActivations("static", scale=scale, noise="static")):
        apply(one, target)
    (node,) = (node for node in target.graph if node.op_type == "QuantizeLinear")
    found = codes.read(target.graph[-1].inputs[0])
    assert found is not None and found.codes is node.outputs[0] and found.step > 6 / 255
    assert found.step < (0.1 if scale == "real" else 0.2)  # up to twice as much is the next power of two
    assert scale == "real" or np.frexp(found.step)[0] == 0.5
    assert found.zero_point is not None
    zero = float(tensors.array(found.zero_point))
    low, high = -zero * found.step, (255 - zero) * found.step
    x = normal(3, 7, 64, seed=1) * np.array([1, 0.01, 1000], np.float32)[:, None, None]
    whole = outputs(target, x=x)["disabled"][0]
    assert np.abs(whole - np.clip(np.negative(x), low, high)).max() <= 0.501 * found.step
    np.testing.assert_array_equal(outputs(target, x=x[1:2, 2:5])["disabled"][0], whole[1:2, 2:5])


def test_to_see_what_activations_alone_cost() -> None:
    text = "g (float[n,s,64] x) => (float[n,s,32] y) { h = Neg (x)  y = MatMul (h, w) }"
    target = model(text, w=normal(64, 32))
    assert not apply(QuantizeActivations(), target).sites
    applied = apply(QuantizeActivations(floats=True), target)
    assert len(applied.sites) == 1 and ops(target)["QuantizeLinear"] == 1 and "w" in target.graph.initializers


@pytest.mark.parametrize("block", [0, 1, -4])
def test_blocks_that_are_refused(block: int) -> None:
    with pytest.raises(UsageError, match="block"):
        QuantizeActivations("block", block=block)


def test_products_of_one_value_share_its_codes() -> None:
    target = quantized(
        "g (float[n,64] x) => (float[n,32] y, float[n,32] z) { y = MatMul (x, w) z = MatMul (x, v) }",
        w=normal(64, 32),
        v=normal(64, 32, seed=1),
    )
    assert ops(target)["QuantizeLinear"] == 1
    apply(LowerWeights(), target)
    assert ops(target)["QuantizeLinear"] == 1 and ops(target)["MatMulIntegerToFloat"] == 2


def test_half_precision_in_and_out() -> None:
    x = normal(3, 64, seed=1).astype(np.float16)
    text = "g (float16[n,64] x) => (float16[n,32] y) { y = MatMul (x, w) }"
    for lowered in (False, True):
        target = quantized(text, w=normal(64, 32).astype(np.float16), lowered=lowered)
        for (got,) in outputs(target, x=x).values():
            close(got, x @ normal(64, 32).astype(np.float16), 4e-2)


@pytest.mark.parametrize("lowered", [False, True])
def test_inside_branches(lowered: bool) -> None:
    target = quantized(
        """g (float[n,64] x, bool c) => (float[n,32] y) { y = If (c) <
            then_branch = t () => (float[n,32] u) { u = MatMul (x, w) },
            else_branch = e () => (float[n,32] v) { h = Relu (x)  v = MatMul (h, w) }> }""",
        w=normal(64, 32),
        lowered=lowered,
    )
    x = normal(3, 64, seed=1)
    for condition, source, below in ((True, x, 128), (False, np.maximum(x, 0), 0)):
        want = reference(source, below)
        close(outputs(target, x=x, c=np.array(condition))["disabled"][0], want, 1e-5)
        close(outputs(target, x=x, c=np.array(condition))["all"][0], want, 1e-5 if lowered else 2e-2)


@sided
def test_levels(operator: str, below: int) -> None:
    target = model(f"g (float[n] x) => (float[n] y) {{ y = {operator or 'Neg'} (x) }}")
    assert levels_below_zero(target.graph[0].outputs[0]) == below


@pytest.mark.parametrize("per", ["token", "block", "static"])
def test_a_vector_keeps_its_floats(per: Any) -> None:
    """Its one scale would be taken for that of the whole tensor, and the runtime refuses blocks of such."""
    text = "g (float[64] v) => (float[32] y) { y = MatMul (v, w) }"
    target = model(text, w=normal(64, 32))
    apply(W8, target)
    applied = QuantizeActivations(per)(target)
    assert isinstance(applied, Applied) and not applied.sites
    assert "it is a vector" in applied.declined[0].reason
