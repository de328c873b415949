"""What the tests of the normalizations share: the harness's checks for functions that call functions and use int64."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from onnx.reference import ReferenceEvaluator

from bct_onnx.integer import Kernel
from bct_onnx.runtime.session import Optimize
from tests import versions
from tests.integer import harness
from tests.integer.harness import Array, Feeds

SAME = (
    "IntegerSquareRoot/constant_3",  # Newton's iteration arrives from other starts as well, in more steps
    "IntegerSquareRoot/last",  # the axis -1
    "NormalizeFactors/last",
    "NormalizeFactors/greatest",  # keeps s in int32 where epsilon buries the row
)


def absurd(case: Feeds, unit: float) -> list[Feeds]:
    """``case`` with output scales so small or large that the limits of the factors act."""
    length = len(case["gamma"])
    fine = 6e-9 * unit
    gamma = np.where(np.arange(length), 10 * fine * np.arange(length) / length, 1)
    steep = floats(gamma=gamma, beta=np.zeros(length), y_scale=fine)
    return [{**case, **steep}, {**case, **floats(y_scale=0.001)}]


def agree(kernel: Kernel, feeds: Feeds, levels: Iterable[Optimize] = harness.LEVELS) -> Array:
    """numpy = reference evaluator = ONNX Runtime, with inputs and with all but codes as initializers; int32 suffices
    for what is int32 (values per row may be int64).
    """
    want = harness.refer(kernel, feeds)
    for static in (False, True):
        proto = harness.model(kernel, feeds, static)
        onnx.checker.check_model(proto, full_check=True)
        given = {value.name: feeds[value.name] for value in proto.graph.input}
        for level in levels:
            found = harness.evaluate(proto, given, level)
            np.testing.assert_array_equal(found, want, err_msg=f"ONNX Runtime, {level}, static {static}")
    if not versions.has("1.21", "onnx"):
        return want  # the reference evaluator of older ones rounds quotients of integers down
    inlined = onnx.inliner.inline_local_functions(harness.model(kernel, feeds))
    evaluated: Any = ReferenceEvaluator(inlined).run(None, dict(feeds))
    np.testing.assert_array_equal(evaluated[0], want, err_msg="reference evaluator")
    np.testing.assert_array_equal(_shadow(inlined, feeds), want, err_msg="int64")
    return want


def _shadow(inlined: onnx.ModelProto, feeds: Feeds) -> Array:
    """The output with int32 widened to int64; asserts that no int32 needed it and that full-size values are int32."""
    narrow: Any = ReferenceEvaluator(inlined).run(None, dict(feeds), intermediate=True)
    harness._widen(inlined.graph)
    wide: Any = ReferenceEvaluator(inlined).run(None, dict(feeds), intermediate=True)
    for name, value in narrow.items():
        if name and value.dtype == np.int32:
            np.testing.assert_array_equal(wide[name], value, err_msg=f"{name} leaves int32")
    return np.asarray(wide["y"])


def floats(**values: float | Array) -> dict[str, Array]:
    """Inputs of float32; scalars get rank 0."""
    return {name: np.asarray(value, np.float32) for name, value in values.items()}


def affine(length: int, seed: int = 0) -> dict[str, Array]:
    """gamma and beta of a trained normalization: positive factors around 1, some small, and small shifts."""
    random = np.random.default_rng(seed)
    return floats(gamma=np.abs(random.normal(1, 0.3, length)), beta=random.normal(0, 0.3, length))


def errors(feeds: Feeds, y: Array, exact: Array) -> tuple[Array, Array]:
    """The exact values cut to what the output codes can represent, and the distance of ``y`` from them."""
    scale, zero_point = (np.float64(feeds[name]) for name in ("y_scale", "y_zero_point"))
    cut = np.clip(exact, scale * (0 - zero_point), scale * (255 - zero_point))
    return cut, np.abs(scale * (y - zero_point) - cut)
