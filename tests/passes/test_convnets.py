"""Pointwise convolutions of convnets, behind a pooling too, become products of 8 bits: 4 read other words."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from bct_onnx.forms.weights import SENSITIVE
from bct_onnx.registry import parse
from passes.fuse_pointwise import FusePointwise
from tests.passes.small import apply, model, normal

TEXT = """g (float[n,64,h,w] x) => (float[n,64,h,w] y) {{
    seen = Conv <pads = {pads}> (x, kernel)
    pooled = GlobalAveragePool (seen)
    fewer = Conv (pooled, squeeze)
    active = Relu (fewer)
    all = Conv (active, excite)
    gate = Sigmoid (all)
    gated = Mul (seen, gate)
    y = Conv (gated, pointwise)
}}"""
POINTWISE = {"squeeze": (128, 64, 1, 1), "excite": (64, 128, 1, 1), "pointwise": (64, 64, 1, 1)}


def network(kernel: int) -> ir.Model:
    weights = {name: normal(*shape, scale=0.1) for name, shape in POINTWISE.items()}
    text = TEXT.format(pads=[kernel // 2] * 4)
    return model(text, kernel=normal(64, 64, kernel, kernel, scale=0.05), **weights)


@pytest.mark.parametrize(("kernel", "kind"), [(1, ir.DataType.INT4), (3, ir.DataType.INT8), (5, ir.DataType.INT8)])
@pytest.mark.parametrize("bits", ["bits=4", "bits=3", "bits=4 block=64x64 scale=shift", "bits=8"])
def test_weights_of_a_convnet_get_the_whole_range_of_eight_bits(kernel: int, kind: ir.DataType, bits: str) -> None:
    target = network(kernel)
    for one in parse(f"fuse-pointwise{{minimum=1}},fuse-weights,quantize-weights{{{bits}}}"):
        applied = apply(one, target)
    notes = {site.name: site.note for site in applied.sites}
    assert set(notes) >= set(POINTWISE)
    for name in POINTWISE:
        assert notes[name].startswith("int8") == (kind == ir.DataType.INT8 or bits == "bits=8"), notes[name]
        assert ("full-range" in notes[name]) == (kind == ir.DataType.INT8), notes[name]


def test_layers_of_sequences_are_no_image() -> None:
    text = """g (float[n,64,t] x) => (float[n,64,t] y) {
        seen = Conv <pads = [1, 1]> (x, kernel)
        y = Conv (seen, pointwise) }"""
    target = model(text, kernel=normal(64, 64, 3), pointwise=normal(64, 64, 1))
    apply(FusePointwise(), target)
    assert all(SENSITIVE not in value.meta for value in target.graph.initializers.values())
