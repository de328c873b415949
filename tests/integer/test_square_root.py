from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from bct_onnx.integer.square_root import POWERS, STARTS, IntegerSquareRoot, square_root
from bct_onnx.runtime.session import run, session
from tests.integer.harness import LEVELS, Array


def test_every_small_value() -> None:
    v = np.arange(1, 3_000_000)
    root = square_root(v)
    assert np.all(root * root <= v)
    assert np.all(v < (root + 1) ** 2)


def test_around_every_kind_of_square() -> None:
    random = np.random.default_rng(0)
    exponents = [2**k + d for k in range(2, 31) for d in (-1, 0, 1)]
    roots = np.array([*range(1, 5000), *exponents, *range(2**31 - 5000, 2**31), *random.integers(1, 2**31, 100_000)])
    for v in (roots * roots, roots * roots + roots, roots * roots + 2 * roots):
        np.testing.assert_array_equal(square_root(v), roots)


@given(st.integers(1, 2**62 - 1))
def test_any_value(v: int) -> None:
    assert square_root(np.array([v]))[0] == math.isqrt(v)


def test_starts_are_above_the_root_and_at_most_twice_as_large() -> None:
    assert list(POWERS) == [4**k for k in range(31)]
    assert list(STARTS[1:]) == [2 * math.isqrt(power) for power in POWERS.tolist()]


def test_the_graph_is_the_reference() -> None:
    v = np.concatenate(
        [
            np.arange(1, 300),
            (2 ** np.arange(1, 62)) - 1,
            np.random.default_rng(1).integers(1, 2**62, 99),
            [2**62 - 2**32],
        ]
    )
    _same(v)
    _same(v[:300].reshape(3, 100))
    _same(v[:300].reshape(1, 3, 100, 1))


def _same(v: Array) -> None:
    function = IntegerSquareRoot.to_function_proto()
    call = onnx.helper.make_node("IntegerSquareRoot", ["v"], ["y"], domain="ai.bct")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, v.shape) for name in "vy"]
    graph = onnx.helper.make_graph([call], "root", ends[:1], ends[1:])
    opsets = [onnx.helper.make_opsetid("", 23), onnx.helper.make_opsetid("ai.bct", 1)]
    proto = onnx.helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10)
    evaluated: Any = ReferenceEvaluator(proto).run(None, {"v": v})
    np.testing.assert_array_equal(evaluated[0], square_root(v))
    for level in LEVELS:
        found = run(session(proto.SerializeToString(), optimize=level), {"v": v})[0]
        np.testing.assert_array_equal(found, evaluated[0])
