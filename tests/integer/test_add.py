from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from onnxscript import script

from bct_onnx.integer import Kernel, model_functions
from bct_onnx.integer.add import KERNELS, IntegerAdd, add, add_bound, common_scale, exact_add
from bct_onnx.integer.kernel import BCT, Tensor, op
from bct_onnx.integer.layer_norm import IntegerLayerNorm, exact_layer_norm, layer_norm
from bct_onnx.runtime.session import run, session
from tests.integer import harness, normalizing
from tests.integer.harness import Array, Feeds

(KERNEL,) = KERNELS
ROW_SCALES = [[0.001], [0.02], [0.1]]
CHANNEL_SCALES = np.geomspace(0.01, 0.3, 384)


def feeds(a_scale: Any, b_scale: Any, dtype: Any = np.uint8, y_scale: float | None = None) -> Feeds:
    codes = {name: harness.random_codes(2, 3, 384, dtype=dtype, seed=seed) for seed, name in enumerate("ab")}
    zero_points = {"a_zero_point": np.array(5, dtype), "b_zero_point": np.array(120, dtype)}
    scales = normalizing.floats(a_scale=a_scale, b_scale=b_scale)
    found = common_scale(scales["a_scale"], scales["b_scale"]) if y_scale is None else y_scale
    return {**codes, **zero_points, **scales, **normalizing.floats(y_scale=found)}


CASES = {
    "scalars": feeds(0.02, 0.03),
    "int8": feeds(0.5, 0.003, np.int8),
    "per row": feeds(0.02, ROW_SCALES),
    "per channel": feeds(CHANNEL_SCALES, 0.02),
    "channels and rows": feeds(CHANNEL_SCALES, ROW_SCALES, np.int8),
    "far apart": feeds(1.0, 1e-5),
}


@pytest.mark.parametrize("name", CASES)
def test_three_engines_agree_and_the_bound_holds(name: str) -> None:
    case = CASES[name]
    y = add(*(case[each] for each in KERNEL.inputs))
    assert y.dtype == np.int32
    assert np.abs(y).max() < 2**24
    a, b = (case[each].astype(np.float64) - case[f"{each}_zero_point"] for each in "ab")
    error = np.abs(y * np.float64(case["y_scale"]) - exact_add(a * case["a_scale"], b * case["b_scale"]))
    assert np.all(error <= add_bound(a, b, case["y_scale"]) * (1 + 1e-6) + 1e-6)
    proto = _model(case)
    evaluated: Any = ReferenceEvaluator(proto).run(None, dict(case))
    np.testing.assert_array_equal(evaluated[0], y)
    for level in harness.LEVELS:
        np.testing.assert_array_equal(run(session(proto.SerializeToString(), optimize=level), case)[0], y)


def test_every_pair_of_codes() -> None:
    codes = harness.every_code(np.uint8)
    for a_scale, b_scale in ((0.02, 0.03), (1.0, 1 / 300), (0.004, 0.004)):
        zero_point = np.array(128, np.uint8)
        scales = normalizing.floats(a_scale=a_scale, b_scale=b_scale)
        y_scale = np.array(common_scale(scales["a_scale"], scales["b_scale"]), np.float32)
        y = add(codes.T, scales["a_scale"], zero_point, codes, scales["b_scale"], zero_point, y_scale)
        q = codes - 128.0
        error = np.abs(y * np.float64(y_scale) - exact_add(a_scale * q.T, b_scale * q))
        assert np.all(error <= add_bound(q.T, q, y_scale) + 1e-5 * a_scale)


def test_a_sum_can_be_added_to() -> None:
    case = CASES["scalars"]
    first = add(*(case[name] for name in KERNEL.inputs))
    stream = {"a": first, "a_scale": case["y_scale"], "a_zero_point": np.array(0, np.int32)}
    second = add(*({**case, **stream}[name] for name in KERNEL.inputs))
    b = case["b"].astype(np.int32) - case["b_zero_point"]
    np.testing.assert_array_equal(second - first, b * np.rint(case["b_scale"] / case["y_scale"]).astype(np.int32))


@given(st.lists(st.floats(1e-6, 1e3), min_size=1), st.floats(1e-6, 1e3))
def test_common_scale_is_fine_and_not_too_fine(scales: list[float], other: float) -> None:
    a, b = np.array(scales, np.float32), np.array([other], np.float32)
    y = np.float32(common_scale(a, b))
    everything = np.concatenate([a, b])
    assert everything.max() / y <= 2**14 * 1.001
    assert everything.min() / y >= 63.9 or everything.max() / everything.min() > 250


@script(BCT, default_opset=op)
def AddThenNormalize(
    a: Tensor,
    a_scale: Tensor,
    a_zero_point: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero_point: Tensor,
    x_scale: Tensor,
    gamma: Tensor,
    beta: Tensor,
    epsilon: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
) -> Tensor:
    """What the sum is for."""
    x = IntegerAdd(a, a_scale, a_zero_point, b, b_scale, b_zero_point, x_scale)
    return IntegerLayerNorm(x, x_scale, gamma, beta, epsilon, y_scale, y_zero_point)


def add_then_normalize(*arguments: Array) -> Array:
    return layer_norm(add(*arguments[:7]), *arguments[6:])


FLOATS = dict.fromkeys(("gamma", "beta", "epsilon"), ir.DataType.FLOAT)
BOTH = Kernel(AddThenNormalize, add_then_normalize, exact_layer_norm, add_bound, codes=("a", "b"), types=FLOATS)


@pytest.mark.parametrize("name", CASES)
def test_a_sum_is_normalized(name: str) -> None:
    case = _normalized(CASES[name])
    y = normalizing.agree(BOTH, case, levels=("all",))
    a, b = (case[f"{each}_scale"] * (case[each].astype(np.float64) - case[f"{each}_zero_point"]) for each in "ab")
    _, error = normalizing.errors(case, y, exact_layer_norm(a + b, case["gamma"], case["beta"], 1e-12))
    assert error.max() < 1.5 * case["y_scale"]


def test_it_is_integer_between_codes() -> None:
    harness.integer(BOTH)


def _normalized(case: Feeds) -> Feeds:
    found = {**case, "x_scale": case["y_scale"], "y_zero_point": np.array(128, np.uint8), **normalizing.affine(384)}
    return {**found, **normalizing.floats(epsilon=1e-12, y_scale=0.03)}


def _model(case: Feeds) -> onnx.ModelProto:
    ends = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(case[name].dtype), case[name].shape
        )
        for name in KERNEL.inputs
    ]
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT32, case["a"].shape)
    call = onnx.helper.make_node("IntegerAdd", KERNEL.inputs, ["y"], domain="ai.bct")
    opsets = [onnx.helper.make_opsetid("", 23), onnx.helper.make_opsetid("ai.bct", 1)]
    functions = [ir.to_proto(function) for function in model_functions(KERNEL)]
    graph = onnx.helper.make_graph([call], "add", ends, [y])
    return onnx.helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)
