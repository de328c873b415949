"""What only decides how long values are is found, and nothing else is; it stays float."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.base import Applied
from bct_onnx.forms import codes
from bct_onnx.graph import lengths
from bct_onnx.runtime.session import run, session
from passes.calibrate import Calibrate
from passes.quantize_intermediates import QuantizeIntermediates
from passes.quantize_weights import QuantizeWeights
from tests.passes.small import apply, model, normal

SPEECH = """g (float[n,64] x) => (float[m,256] sound) {
    h = MatMul (x, w)
    a = MatMul (h, d)  b = Gelu (a)  c = MatMul (b, e)
    part = Identity (c)  sizes = Shape (part)  alike = ConstantOfShape (sizes)
    moved = Add (c, alike)  times = Exp (moved)
    whole = %s
    total = ReduceSum <keepdims = 0> (whole)
    count = Cast <to = 7> (total)
    zero = Constant <value_int = 0> ()  one = Constant <value_int = 1> ()
    steps = Range (zero, count, one)
    ends = CumSum (whole, zero)  flat = Constant <value_ints = [-1]> ()  row = Reshape (ends, flat)
    column = Unsqueeze (steps, flat)  at = Cast <to = 1> (column)
    before = GreaterOrEqual (at, row)  path = Cast <to = 1> (before)
    longer = MatMul (path, h)
    g = MatMul (longer, u)  s = Gelu (g)  sound = Relu (s)
}"""
"""Tokens become vectors of 64, each as often as a head says whose result is rounded; sums of them become sound."""


def speech(rounded: str = "Ceil (times)") -> ir.Model:
    scaled = {
        "w": normal(64, 64),
        "d": normal(64, 32, seed=1),
        "e": normal(32, 1, seed=2),
        "u": normal(64, 256, seed=3),
    }
    return model(SPEECH % rounded, **{name: 0.1 * array for name, array in scaled.items()})


def names(target: ir.Model) -> set[str]:
    return {node.outputs[0].name or "" for node in lengths.deciding(target)}


@pytest.mark.parametrize("rounded", ["Ceil (times)", "Round (times)", "Floor (times)"])
def test_the_head_that_says_how_long_is_found(rounded: str) -> None:
    assert {"a", "b", "c", "part", "times"} <= names(speech(rounded))
    assert not {"h", "longer", "g", "s", "sound", "path"} & names(speech(rounded))


def test_a_head_whose_numbers_are_used_too_is_none() -> None:
    target = speech()
    times = next(node.outputs[0] for node in target.graph if node.outputs[0].name == "times")
    target.graph.outputs.append(times)
    assert not {"a", "b", "c", "times"} & names(target)


def test_shapes_say_nothing_of_numbers() -> None:
    target = model(
        """g (float[n,64] x) => (float[n,64] y, float[k] z) {
            h = MatMul (x, w)  sizes = Shape (h)  size = Gather (sizes, i)
            wide = Cast <to = 1> (size)  half = Ceil (wide)  k = Cast <to = 7> (half)
            zero = Constant <value_int = 0> ()  one = Constant <value_int = 1> ()
            r = Range (zero, k, one)  z = Cast <to = 1> (r)  y = Relu (h)
        }""",
        w=normal(64, 64),
        i=np.array(0),
    )
    assert "h" not in names(target)


def test_what_is_most_of_a_model_is_what_the_model_is_for() -> None:
    target = model(
        """g (float[n,64] x) => (int64[2,m] places) {
            h = MatMul (x, w)  kept = Greater (h, zero)  places = NonZero (kept)
        }""",
        w=normal(64, 64),
        zero=np.zeros((), np.float32),
    )
    assert names(target) == set()
    assert len(apply(QuantizeWeights(), target).sites) == 1


def test_its_weights_stay_float_unless_a_format_names_them() -> None:
    applied = apply(QuantizeWeights(minimum=1), speech())
    declined = {each.name: each.reason for each in applied.declined}
    assert declined == {"d": lengths.REASON, "e": lengths.REASON}
    assert {site.name for site in applied.sites} == {"w", "u"}
    assert "d" in {site.name for site in apply(QuantizeWeights(minimum=1, formats=("4/32:d",)), speech()).sites}


def test_its_values_stay_float() -> None:
    target = speech()
    Calibrate(samples=2)(target)
    applied = QuantizeIntermediates(noise="static")(target)
    assert isinstance(applied, Applied)
    assert {"a", "b"} <= {each.name for each in applied.declined if each.reason == lengths.REASON} <= names(speech())
    head, tail = (node for node in target.graph if node.op_type == "Gelu")
    assert codes.read(head.inputs[0]) is None
    assert codes.read(tail.inputs[0]) is not None


def test_lengths_are_those_of_the_source() -> None:
    source = speech()
    feeds = [{"x": normal(9, 64, seed=seed)} for seed in range(20)]
    before = [run(session(source), sample)[0].shape for sample in feeds]
    named = speech()
    apply(QuantizeWeights(formats=("4/32:d",)), named)
    apply(QuantizeWeights(), source)
    after, otherwise = ([run(session(each), sample)[0].shape for sample in feeds] for each in (source, named))
    same, others = (sum(one == two for one, two in zip(before, each, strict=True)) for each in (after, otherwise))
    assert same > others
