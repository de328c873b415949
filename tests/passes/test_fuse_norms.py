"""What `fuse-layer-norm` and `fuse-rms-norm` promise beyond their golden cases."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.base import Pass
from bct_onnx.graph import provenance
from passes.fuse_layer_norm import FuseLayerNorm
from passes.fuse_rms_norm import FuseRmsNorm
from tests.graph import handmade

SCALE = np.linspace(0.5, 2, 6, dtype=np.float32)
BIAS = np.linspace(-1, 1, 6, dtype=np.float32)
LAYER = """<ir_version: 10, opset_import: ["": 23]> g (float[n,6] x) => (float[n,6] y)
    <int64[1] last = {-1}, float epsilon = {1e-5}>
    { [mean] m = ReduceMean (x, last)  [centre] c = Sub (x, m)  s = Mul (c, c)  v = ReduceMean (s, last)
      e = Add (v, epsilon)  r = Sqrt (e)  d = Div (c, r)  g = Mul (d, scale)  [shift] y = Add (g, bias) }"""
RMS = """<ir_version: 10, opset_import: ["": 23]> g (float[n,6] x) => (float[n,6] y)
    <int64[1] last = {-1}, float epsilon = {1e-5}>
    { [square] s = Mul (x, x)  v = ReduceMean (s, last)  e = Add (v, epsilon)  r = Sqrt (e)  d = Div (x, r)
      [weight] y = Mul (d, scale) }"""


@pytest.mark.parametrize("rewrite", [FuseLayerNorm(), FuseRmsNorm()], ids=str)
def test_the_weights_of_the_model_are_used_not_copied(rewrite: Pass) -> None:
    text, constants = (
        (LAYER, {"scale": SCALE, "bias": BIAS}) if rewrite.name == "fuse-layer-norm" else (RMS, {"scale": SCALE})
    )
    model = ir.from_proto(handmade.model(text, **constants))
    initializers = set(model.graph.initializers)
    rewrite(model)
    (node,) = model.graph
    assert [value.name for value in node.inputs if value is not None] == ["x", *constants]
    assert set(model.graph.initializers) == initializers
    assert [value.name for value in model.graph.outputs] == ["y"]


def test_a_new_node_says_what_it_replaced() -> None:
    model = ir.from_proto(handmade.model(LAYER, scale=SCALE, bias=BIAS))
    FuseLayerNorm()(model)
    (node,) = model.graph
    assert node.metadata_props[provenance.PASS] == "fuse-layer-norm"
    assert {"mean", "centre", "shift"} <= set(node.metadata_props[provenance.REPLACED].split())


@pytest.mark.parametrize("epsilon", ["0.0", "-1e-5"])
def test_an_epsilon_that_no_norm_has_is_declined(epsilon: str) -> None:
    model = ir.from_proto(handmade.model(LAYER.replace("1e-5", epsilon), scale=SCALE, bias=BIAS))
    result = FuseLayerNorm().apply(model)
    assert not result.sites
    (declined,) = result.declined
    assert "LayerNormalization" in declined.reason


def test_one_place_is_declined_once_although_two_means_lead_to_it() -> None:
    text = LAYER.replace("(float[n,6] y)", "(float[n,6] y, float[n,1] v)")
    model = ir.from_proto(handmade.model(text, scale=SCALE, bias=BIAS))
    result = FuseLayerNorm().apply(model)
    assert len(result.declined) == 1
    assert "'v' is used elsewhere" in result.declined[0].reason
