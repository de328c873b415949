"""Models that draw random numbers can be compared: noise is its mean in both."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from bct_onnx.graph.randomness import is_random, steadied
from bct_onnx.runtime.session import run, session

X = np.array([[0.2, 0.9, 0.4], [0.7, 0.1, 0.6]], np.float32)
HEAD = '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>'
DRAWN: dict[str, Any] = {
    "y = RandomNormalLike <mean = 2.0> (x)": np.full((2, 3), 2.0),
    "y = RandomUniformLike <low = 1.0, high = 4.0> (x)": np.full((2, 3), 2.5),
    "h = Cast <to = 10> (x)  r = RandomNormalLike (h)  y = Cast <to = 1> (r)": np.zeros((2, 3)),
    "i = Cast <to = 7> (x)  y = RandomUniformLike <dtype = 1> (i)": np.full((2, 3), 0.5),
    "y = RandomNormal <shape = [2, 3]> ()  z = Identity (x)": np.zeros((2, 3)),
    "y = RandomUniform <shape = [2, 3]> ()  z = Identity (x)": np.full((2, 3), 0.5),
    "y = Bernoulli (x)": X > 0.5,
    "m = Multinomial <sample_size = 3> (x)  y = Cast <to = 1> (m)": [[1, 1, 1], [0, 0, 0]],
    "r = Constant <value_float = 0.5> ()  t = Constant <value = bool {1}> ()  y, m = Dropout (x, r, t)": X,
    "y = local.f (x)": np.zeros((2, 3)),
}


@pytest.mark.parametrize("body", DRAWN)
def test_noise_becomes_its_mean(body: str) -> None:
    function = '<domain: "local", opset_import: ["" : 17]> f (a) => (b) { b = RandomNormalLike (a) }'
    model = ir.from_onnx_text(f"{HEAD} g (float[n,3] x) => (float[n,3] y) {{ {body} }} {function * ('local' in body)}")
    noisy = session(model)
    first, second = (run(noisy, {"x": X})[0] for _ in range(2))
    assert is_random(model) and ("Dropout" in body or "Bernoulli" in body or not np.array_equal(first, second))
    quiet = session(steadied(model))
    assert np.array_equal(run(quiet, {"x": X})[0], DRAWN[body]) and np.array_equal(run(quiet, {"x": X})[0], DRAWN[body])
    assert is_random(model), "the model itself is left as it was"


def test_what_draws_nothing() -> None:
    model = ir.from_onnx_text(f"{HEAD} g (float[n,3] x) => (float[n,3] y) {{ y, m = Dropout (x) }}")
    assert not is_random(model)


def test_names_of_a_branch_are_not_those_of_the_graph_around_it() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 21]> g (float[n] x, bool c) => (float[n] y) <float two = {2}>
        { val_0 = Mul (x, two)  val_1 = Neg (val_0)
          t = If (c) <then_branch = a () => (u) { u = RandomNormalLike (val_1) },
                      else_branch = b () => (v) { v = Neg (val_1) }>
          y = Add (t, val_1) }"""
    )
    (y,) = run(session(steadied(model)), {"x": np.ones(3, np.float32), "c": np.array(True)})
    np.testing.assert_array_equal(y, np.full(3, -2, np.float32))
