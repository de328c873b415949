"""ONNX Runtime's own operators but for attention give what their lifted form gives, in all forms that its CPU runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bct_onnx.errors import InputModelError, TargetError
from bct_onnx.graph.tensors import Array
from bct_onnx.rewriting import rewrite
from passes.lift_contrib import LiftContrib
from tests.examples import examples
from tests.passes.own_operators import (
    BETA,
    BIAS,
    GAMMA,
    PADDED,
    SKIP,
    B,
    C,
    N,
    S,
    Values,
    X,
    floats,
    ints,
    model,
    same,
)

SIMPLE: dict[str, tuple[str, Values, dict[str, Any], tuple[str, ...]]] = {
    "RMS": ("SimplifiedLayerNormalization", {"x": X, "gamma": GAMMA}, {"epsilon": 1e-3, "axis": -1}, ("y0",)),
    "RMS, defaults": ("SimplifiedLayerNormalization", {"x": X * 0.01, "gamma": GAMMA}, {}, ("y0",)),
    "RMS, skip": (
        "SkipSimplifiedLayerNormalization",
        {"x": X, "skip": SKIP, "gamma": GAMMA},
        {"epsilon": 1e-3},
        ("y0",),
    ),
    "RMS, skip, bias, sum": (
        "SkipSimplifiedLayerNormalization",
        {"x": X, "skip": SKIP, "gamma": GAMMA, "bias": BIAS},
        {},
        ("y0", "", "", "y3"),
    ),
    "skip": ("SkipLayerNormalization", {"x": X, "skip": SKIP, "gamma": GAMMA, "beta": BETA}, {}, ("y0",)),
    "skip, no beta": ("SkipLayerNormalization", {"x": X, "skip": SKIP, "gamma": GAMMA}, {"epsilon": 0.1}, ("y0",)),
    "skip, no beta, bias": (
        "SkipLayerNormalization",
        {"x": X, "skip": SKIP, "gamma": GAMMA, "beta": None, "bias": BIAS},
        {},
        ("y0", "", "", "y3"),
    ),
    "skip, bias, sum": (
        "SkipLayerNormalization",
        {"x": X, "skip": SKIP, "gamma": GAMMA, "beta": BETA, "bias": BIAS},
        {"epsilon": 1e-5},
        ("y0", "", "", "y3"),
    ),
    "skip of one text": (
        "SkipLayerNormalization",
        {"x": X, "skip": SKIP[:1], "gamma": GAMMA, "beta": BETA},
        {},
        ("y0",),
    ),
    "skip without texts": (
        "SkipLayerNormalization",
        {"x": X, "skip": SKIP[0], "gamma": GAMMA, "beta": BETA},
        {},
        ("y0",),
    ),
    "BiasGelu": ("BiasGelu", {"x": X, "bias": BIAS}, {}, ("y0",)),
    "FastGelu": ("FastGelu", {"x": X}, {}, ("y0",)),
    "FastGelu, bias": ("FastGelu", {"x": X, "bias": BIAS}, {}, ("y0",)),
    "Gelu": ("Gelu", {"x": X}, {}, ("y0",)),
    "QuickGelu": ("QuickGelu", {"x": X}, {}, ("y0",)),
    "QuickGelu, SiLU": ("QuickGelu", {"x": X}, {"alpha": 1.0}, ("y0",)),
    "Trilu": ("Trilu", {"x": X}, {"upper": 0}, ("y0",)),
    "FusedGemm": (
        "FusedGemm",
        {"a": floats(S, C), "b": floats(C, N), "c": floats(N)},
        {"activation": "LeakyRelu", "activation_alpha": 0.3, "alpha": 0.5, "beta": 2.0},
        ("y0",),
    ),
    "FusedGemm, transposed, no bias": (
        "FusedGemm",
        {"a": floats(C, S), "b": floats(N, C)},
        {"activation": "Relu", "transA": 1, "transB": 1},
        ("y0",),
    ),
    "FusedConv, sum": (
        "FusedConv",
        {"x": floats(1, C, 7, 7), "w": floats(C, C, 3, 3), "b": floats(C), "z": floats(1, C, 7, 7)},
        {"activation": "Relu", "kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
        ("y0",),
    ),
    "FusedConv, clip": (
        "FusedConv",
        {"x": floats(1, C, 7, 7), "w": floats(C, C, 3, 3)},
        {"activation": "Clip", "activation_params": [-1.0, 4.0], "kernel_shape": [3, 3], "strides": [2, 2]},
        ("y0",),
    ),
    "FusedConv, hard sigmoid": (
        "FusedConv",
        {"x": floats(1, C, 7, 7), "w": floats(C, 1, 3, 3), "b": floats(C)},
        {"activation": "HardSigmoid", "activation_params": [0.1, 0.4], "kernel_shape": [3, 3], "group": C},
        ("y0",),
    ),
}


@pytest.mark.parametrize(("operator", "inputs", "attributes", "outputs"), SIMPLE.values(), ids=SIMPLE)
def test_simple_operators(operator: str, inputs: Values, attributes: dict[str, Any], outputs: tuple[str, ...]) -> None:
    same(model(operator, inputs, attributes, outputs=outputs), inputs)


@pytest.mark.parametrize("dtype", [np.float16], ids=["float16"])
@pytest.mark.parametrize("case", ["RMS", "RMS, skip, bias, sum", "skip, bias, sum"])
def test_half_precision(case: str, dtype: type) -> None:
    operator, inputs, attributes, outputs = SIMPLE[case]
    halves: dict[str, Array | None] = {
        name: None if value is None else value.astype(dtype) for name, value in inputs.items()
    }
    same(model(operator, halves, attributes, outputs=outputs), halves, db=60.0)


@examples(30)
@given(
    st.integers(2, 4),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1.0, 0.25, -2.0]),
    st.booleans(),
)
def test_products(axes: int, a: bool, b: bool, batch_a: bool, batch_b: bool, alpha: float, constant: bool) -> None:
    flags = {"transA": int(a), "transB": int(b), "transBatchA": int(batch_a), "transBatchB": int(batch_b)}
    if axes == 2:
        flags |= {"transBatchA": 0, "transBatchB": 0}
    batches = [2, 3][: axes - 2]

    def side(flipped: bool, batch: bool, rows: int, columns: int) -> Array:
        rows, columns = (columns, rows) if flipped else (rows, columns)
        return floats(rows, *batches, columns) if batch and axes > 2 else floats(*batches, rows, columns)

    inputs = {"a": side(a, batch_a, 4, 7), "b": side(b, batch_b, 7, 5)}
    same(model("FusedMatMul", inputs, {"alpha": alpha, **flags}, constant=("b",) if constant else ()), inputs)


WORDS = {"words": floats(11, C), "places": floats(9, C), "kinds": floats(3, C), "gamma": GAMMA, "beta": BETA}
EMBED: dict[str, Values] = {
    "all": {"mask": PADDED, "position_ids": ints(B, S, high=9)},
    "positions of one text": {"position_ids": ints(1, S, high=9)},
    "no positions": {"mask": PADDED},
    "no segments": {"segments": None, "kinds": None, "mask": PADDED},
    "neither": {"segments": None, "kinds": None},
}


@pytest.mark.parametrize("outputs", [2, 3])
@pytest.mark.parametrize("changed", EMBED.values(), ids=EMBED)
def test_embeddings(changed: Values, outputs: int) -> None:
    inputs: dict[str, Array | None] = {"ids": ints(B, S, high=11), "segments": ints(B, S, high=3), **WORDS}
    inputs |= {"mask": None, "position_ids": None} | dict(changed)
    weights = tuple(name for name in WORDS if inputs[name] is not None)
    same(model("EmbedLayerNormalization", inputs, {"epsilon": 1e-6}, outputs=outputs, constant=weights), inputs)


def test_layouts_are_an_error_that_says_how_to_save_the_model() -> None:
    found = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 20, "com.microsoft.nchwc": 1]>
        g (float[1,16,4,4] x) => (float[1,16,4,4] y) { y = com.microsoft.nchwc.ReorderInput (x) }"""
    )
    with pytest.raises(InputModelError, match=r"(?s)ReorderInput.*ORT_ENABLE_EXTENDED"):
        LiftContrib()(found)


def test_what_stays_is_refused_for_other_runtimes_with_a_way_out() -> None:
    text = """<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]> g (float[2,2] x) => (float[2,2] y)
        { a = Relu (x) b = Neg (a) y = com.microsoft.Inverse (b) }"""
    with pytest.raises(TargetError, match=r"(?s)Inverse.*start from the export before its optimizer"):
        rewrite(ir.from_onnx_text(text), "lift", target="portable")
