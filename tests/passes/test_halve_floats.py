"""Floats in half the bytes: names stay, other passes see through the cast, the reports know what is stored."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.forms import codes
from bct_onnx.forms.linear import bias_of
from bct_onnx.graph import tensors
from bct_onnx.graph.inventory import inventory
from bct_onnx.quant.halves import STRIP
from passes.halve_floats import HalveFloats
from tests.passes.small import apply, model, normal

LINEAR = "g (float[n,64] x) => (float[n,96] y) { m = MatMul (x, w)  y = Add (m, b) }"


def test_what_is_stored_keeps_its_name() -> None:
    target = model(LINEAR, w=normal(64, 96), b=normal(96, seed=1))
    before = inventory(target)
    result = apply(HalveFloats(), target)
    assert [one.name for one in result.declined] == ["w"]
    (site,) = result.sites
    assert site.name == "b" and site.error is not None and 70 < 10 * np.log10(site.error.signal / site.error.noise) < 80
    after = inventory(target)
    stored = {weight.name: (weight.kind, weight.dtype, weight.nbytes) for weight in after.weights}
    assert stored == {"w": ("matmul", "FLOAT", 64 * 96 * 4), "b": ("bias", "FLOAT16", 96 * 2)}
    assert after.nbytes + 96 * 2 == before.nbytes and after.parameters == before.parameters


def test_a_halved_bias_is_still_a_bias() -> None:
    target = model(LINEAR, w=normal(64, 96), b=normal(96, seed=1))
    apply(HalveFloats(), target)
    product = next(node for node in target.graph if node.op_type == "MatMul")
    addition, bias = bias_of(product)
    assert addition is not None and bias is not None and bias.dtype == ir.DataType.FLOAT
    found = codes.vector(bias)
    assert found is not None
    np.testing.assert_array_equal(found, normal(96, seed=1).astype(np.float16))


@pytest.mark.parametrize("bad", [np.inf, np.nan, 70000.0])
def test_one_value_that_float16_does_not_hold(bad: float) -> None:
    bias = normal(96, seed=1)
    bias[7] = bad
    target = model(LINEAR, w=normal(64, 96), b=bias)
    result = apply(HalveFloats(), target)
    assert not result.sites and {one.name: one.reason for one in result.declined}["b"].startswith("float16")
    np.testing.assert_array_equal(tensors.array(target.graph.initializers["b"]), bias)


def test_values_too_small_for_float16() -> None:
    target = model(LINEAR, w=normal(64, 96), b=normal(96, seed=1, scale=1e-7))
    assert not apply(HalveFloats(), target).sites


def test_errors_of_large_tensors_are_summed_over_all_values() -> None:
    text = "g (int64[n] i) => (float[n,96] y) { y = Gather (w, i) }"
    w = normal(STRIP // 96 + 100, 96)
    w[-1] *= 1000
    target = model(text, w=w)
    (site,) = apply(HalveFloats(), target).sites
    exact, half = w.astype(np.float64), w.astype(np.float16).astype(np.float64)
    assert site.error is not None
    assert site.error.noise == pytest.approx(np.square(exact - half).sum(), rel=1e-9)
    assert site.error.signal == pytest.approx(np.square(exact).sum(), rel=1e-9)
