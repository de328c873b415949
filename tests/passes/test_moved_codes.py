"""Residual sums of codes behind which the value is only moved load and run at every level of optimization.

ONNX Runtime moves a DequantizeLinear over operators that move data, and puts a QuantizeLinear behind them: of int32
there is none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bct_onnx.forms import codes
from bct_onnx.runtime.session import run, session
from passes.calibrate import Calibrate
from passes.integer_add import IntegerAdd
from passes.integer_layer_norm import IntegerLayerNorm
from passes.lower_norms import LowerNorms
from passes.quantize_intermediates import QuantizeIntermediates
from tests.passes.small import EVERY, apply, model, normal, ops, outputs

SUM = "g (float[n,s,8] x) => (float[%s] y) { h = Neg (x)  v = MatMul (h, w)  r = Add (h, v)  %s }"
ARRAYS = {
    "w": normal(8, 8, seed=1),
    "one": np.array([1]),
    "zero": np.array([0]),
    "two": np.array([2]),
    "flat": np.array([0, -1]),
    "wide": np.array([2, 1, 1, 1]),
    "twice": np.array([1, 1, 2]),
    "edges": np.array([0, 0, 1, 0, 0, 1]),
    "parts": np.array([4, 4]),
    "index": np.zeros((1, 1, 8), np.int64),
    "place": np.array([[0]]),
    "m": normal(8, seed=2),
}
MOVES = {
    "Unsqueeze": "t = Unsqueeze (r, one)",
    "Squeeze": "u = Unsqueeze (r, one)  t = Squeeze (u, one)",
    "Reshape": "t = Reshape (r, flat)",
    "Flatten": "t = Flatten (r)",
    "Transpose": "t = Transpose <perm = [1, 0, 2]> (r)",
    "Slice": "t = Slice (r, zero, two, one)",
    "MaxPool": "t = MaxPool <kernel_shape = [2]> (r)",
    "Expand": "t = Expand (r, wide)",
    "Tile": "t = Tile (r, twice)",
    "Gather": "t = Gather (r, zero)",
    "GatherND": "t = GatherND (r, place)",
    "GatherElements": "t = GatherElements (r, index)",
    "Concat": "t = Concat <axis = 1> (r, r)",
    "Split": "t, o = Split <axis = -1> (r, parts)",
    "Pad": "t = Pad (r, edges)",
    "Identity": "t = Identity (r)",
    "Cast": "c = Cast <to = 11> (r)  t = Cast <to = 1> (c)",
    "LayerNormalization": "t = LayerNormalization <axis = -1> (r, m)",
    "Softmax": "t = Softmax (r)",
    "ReduceMax": "t = ReduceMax (r, one)",
}
RANKS = {"Unsqueeze": "p,q,a,b", "Expand": "p,q,a,b", "Reshape": "p,q", "Flatten": "p,q", "GatherND": "p,a,b"}


@pytest.mark.parametrize("norms", ["integer", "float"])
@pytest.mark.parametrize("move", MOVES)
def test_moved_sums_run(move: str, norms: Any) -> None:
    text = SUM % (RANKS.get(move, "p,q,a"), MOVES[move] + "  y = Neg (t)")
    target = model(text, **ARRAYS)
    x = normal(2, 4, 8, seed=3)
    (want,) = outputs(target, x=x)["disabled"]
    for one in (Calibrate(samples=8), QuantizeIntermediates(noise="static", around=("residual", "norm")), IntegerAdd()):
        apply(one, target)
    assert ops(target)["IntegerAdd"] == 1
    apply(IntegerLayerNorm(), target)
    apply(LowerNorms(norms), target)
    assert ops(target).get("IntegerAdd", 0) == (norms == "integer")
    for level in EVERY:
        (got,) = run(session(target, optimize=level), {"x": x})
        assert np.square(want - got).sum() < 1e-3 * np.square(want).sum(), level


def test_sums_are_read_as_they_are_written() -> None:
    target = model(SUM % ("n,s,8", "y = Neg (r)"), **ARRAYS)
    for one in (Calibrate(samples=8), QuantizeIntermediates(noise="static"), IntegerAdd()):
        apply(one, target)
    total = next(node for node in target.graph if node.op_type == "IntegerAdd").outputs[0]
    (value,) = codes.values_of(total)
    read = codes.read(value)
    assert read is not None and read.codes is total and read.zero_point is None
    assert [node.op_type for node in read.nodes] == ["Mul", "Cast"]
    foreign = model("g (int32[n,8] i) => (float[n,8] y) <float s = {0.5}> { c = Cast <to = 1> (i)  y = Mul (c, s) }")
    assert codes.read(foreign.graph.outputs[0]) is None, "integers of a model are no codes"
