"""Products of the same codes as one: every number is the same, at every level of optimization."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.base import Pass
from bct_onnx.runtime.session import run, session
from passes.bypass_codes import BypassCodes
from passes.calibrate import Calibrate
from passes.clean_up import CleanUp
from passes.lower_codes import LowerCodes
from passes.lower_weights import LowerWeights
from passes.merge_products import MergeProducts
from passes.quantize_activations import QuantizeActivations
from passes.quantize_weights import QuantizeWeights
from tests.passes.small import apply, everywhere, model, normal, ops

TEXT = """g (float[n,s,64] x) => (float[n,s,48] q, float[n,s,32] k, float[n,s,16] v, float[n,s,64] r) {
    h = LayerNormalization (x, g)  a = MatMul (h, u)  q = Add (a, c)  k = MatMul (h, w)  b = MatMul (h, t)
    v = Add (b, d)  r = Abs (h) }"""
STATIC = (Calibrate(samples=16), QuantizeActivations("static", noise="static"))
FORMATS: dict[str, tuple[QuantizeWeights, ...]] = {
    "one": (QuantizeWeights(),),
    "of each its own": (
        QuantizeWeights(bits=3, keep=("w", "t")),
        QuantizeWeights(bits=2, block=16, keep=("t",)),
        QuantizeWeights(block=(16, 16), scale="shift"),
    ),
    "unsigned": (QuantizeWeights(bits=8, reduce_range=False),),
}


def three(*given: Pass) -> ir.Model:
    shapes = {"u": 48, "w": 32, "t": 16}
    arrays = {name: normal(64, n, seed=n, scale=0.2) for name, n in shapes.items()}
    target = model(TEXT, g=normal(64, seed=1), c=normal(48, seed=2), d=normal(16, seed=3), **arrays)
    for one in given:
        apply(one, target)
    return target


@pytest.mark.parametrize("formats", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("per", ["static", "token"])
def test_the_same_numbers(formats: tuple[QuantizeWeights, ...], per: str) -> None:
    activations = STATIC if per == "static" else (QuantizeActivations(),)
    target = three(*formats, *activations, LowerCodes(), LowerWeights())
    x = normal(2, 5, 64, seed=9)
    want = run(session(target, optimize="disabled"), {"x": x})
    (site,) = apply(MergeProducts(), target).sites
    assert len(site.before) == 3
    apply(CleanUp(), target)
    names = ops(target)
    assert names["MatMulIntegerToFloat"] == names["Split"] == 1
    assert names.get("Mul", 0) == (0 if per == "static" else 1)
    for got, one in zip(everywhere(target, x=x), want, strict=True):
        np.testing.assert_array_equal(got, one)


def test_products_of_other_codes_stay_apart() -> None:
    text = "g (float[n,64] x, float[n,64] z) => (float[n,48] a, float[n,48] b) { a = MatMul (x, u) b = MatMul (z, u) }"
    target = model(text, u=normal(64, 48))
    for one in (QuantizeWeights(), QuantizeActivations(), LowerWeights()):
        apply(one, target)
    assert not apply(MergeProducts(), target).sites


def test_what_reads_floats_gets_them_and_products_their_codes() -> None:
    target = three(QuantizeWeights(), *STATIC, LowerCodes())
    x = normal(2, 5, 64, seed=9)
    before = run(session(target), {"x": x})
    (site,) = apply(BypassCodes(), target).sites
    assert site.before == ("Abs",) and "DequantizeLinear" not in ops(target) and ops(target)["QuantizeLinear"] == 1
    *products, floats = everywhere(target, x=x)
    for got, want in zip(products, before, strict=False):
        np.testing.assert_array_equal(got, want)
    step = np.abs(floats - before[3]).max()
    assert 0 < step < 0.05
