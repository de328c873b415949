"""Each of ONNX Runtime's own operators, in every form that its CPU provider runs, gives what its lifted form gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from bct_onnx.base import Applied
from bct_onnx.errors import InputModelError, TargetError
from bct_onnx.graph import contrib
from bct_onnx.graph.tensors import Array
from bct_onnx.rewriting import rewrite
from bct_onnx.runtime.session import run, session
from passes.lift_contrib import LiftContrib
from passes.normalize import Normalize
from tests.examples import examples

B, S, N, H, P = 2, 5, 4, 6, 3
C = N * H
Values = Mapping[str, Array | None]

_rng = np.random.default_rng(0)


def floats(*shape: int) -> Array:
    return np.random.default_rng(len(shape) + sum(shape)).standard_normal(shape).astype(np.float32)


def ints(*shape: int, high: int = 2) -> Array:
    return np.random.default_rng(sum(shape)).integers(0, high, shape).astype(np.int32)


def model(
    operator: str,
    inputs: Values,
    attributes: Mapping[str, Any] | None = None,
    *,
    outputs: int | tuple[str, ...] = 1,
    constant: tuple[str, ...] = (),
    named: bool = True,
    opset: int = 20,
) -> onnx.ModelProto:
    """One operator; inputs are free in all sizes, those of ``constant`` initializers."""
    domain = "" if operator == "SimplifiedLayerNormalization" else "com.microsoft"
    results = tuple(f"y{index}" for index in range(outputs)) if isinstance(outputs, int) else outputs
    given_ = {name: value for name, value in inputs.items() if value is not None}
    node = helper.make_node(
        operator,
        [name if value is not None else "" for name, value in inputs.items()],
        list(results),
        name="node",
        domain=domain,
        **(attributes or {}),
    )
    declared = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), _dims(name, value, named))
        for name, value in given_.items()
        if name not in constant
    ]
    kinds = {"y1": TensorProto.INT32} if operator == "EmbedLayerNormalization" else {}
    float_kind = helper.np_dtype_to_tensor_dtype(next(v.dtype for v in given_.values() if v.dtype.kind == "f"))
    graph = helper.make_graph(
        [node],
        "g",
        declared,
        [helper.make_tensor_value_info(name, kinds.get(name, float_kind), None) for name in results if name],
        [numpy_helper.from_array(given_[name], name) for name in constant],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def _dims(name: str, value: Array, named: bool) -> list[str | int]:
    """Batch and tokens have names, what a model fixes is a number."""
    names = {B: "batch", S: "tokens", S + P: "all", P: "past"} if named else {}
    fixed = name in ("gamma", "beta", "bias", "cosines", "sines")
    return [
        size if fixed or size == 1 else names.get(size, size if size >= C else f"{name}{i}")
        for i, size in enumerate(value.shape)
    ]


def lifted(proto: onnx.ModelProto, **options: Any) -> tuple[ir.Model, Applied]:
    found = ir.from_proto(proto)
    Normalize()(found)
    applied = LiftContrib(**options)(found)
    assert isinstance(applied, Applied)
    return found, applied


def same(proto: onnx.ModelProto, inputs: Values, db: float = 100.0, **options: Any) -> ir.Model:
    """Both give the same, and nothing of ONNX Runtime's own is left."""
    names = {value.name for value in proto.graph.input}
    feeds = {name: value for name, value in inputs.items() if value is not None and name in names}
    want = run(session(proto.SerializeToString()), feeds)
    found, applied = lifted(proto, **options)
    left = [node.op_type for node in found.graph.all_nodes() if contrib.is_own(node)]
    assert not left, [one.reason for one in applied.declined]
    for a, b in zip(want, run(session(found), feeds), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        noise = np.square(a.astype(np.float64) - b).sum()
        assert noise == 0 or 10 * np.log10(np.square(a.astype(np.float64)).sum() / noise) > db
    return found


X, SKIP, GAMMA, BETA, BIAS = floats(B, S, C), floats(B, S, C) + 1, floats(C) + 1, floats(C), floats(C) * 2

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


LENGTHS, STARTS = np.array([S, S - 2], np.int32), np.array([1, 0], np.int32)
PADDED = np.array([[1] * S, [0, 1, 2, 0, 0]], np.int32)
HIDDEN = np.array([[1] * S, [0] * S], np.int32)
WITH_PAST = np.array([[1] * (S + P), [0, 1, 1, 0, 1, 1, 0, 0]], np.int32)
ATTENTION: dict[str, tuple[Values, dict[str, Any]]] = {
    "no mask": ({}, {}),
    "no bias": ({"bias": None}, {}),
    "lengths": ({"mask": LENGTHS}, {}),
    "lengths and starts": ({"mask": np.concatenate([LENGTHS, STARTS])}, {}),
    "padding": ({"mask": PADDED}, {}),
    "padding in front, causal": ({"mask": 1 - PADDED[:, ::-1] // 2}, {"unidirectional": 1}),
    "a row of nothing but padding": ({"mask": HIDDEN}, {"mask_filter_value": -50.0}),
    "the least number hides": ({"mask": HIDDEN}, {"mask_filter_value": float(np.finfo(np.float32).min)}),
    "a mask per query": ({"mask": ints(B, S, S)}, {}),
    "a mask that is none": ({"mask": np.zeros((B, 1), np.int32)}, {}),
    "causal": ({}, {"unidirectional": 1}),
    "scale": ({}, {"scale": 0.07}),
    "numbers added, one head": ({"attention_bias": floats(B, 1, S, S)}, {}),
    "numbers added, one text": ({"attention_bias": floats(1, N, S, S), "mask": PADDED}, {"unidirectional": 1}),
    "cache": ({"past": floats(2, B, N, P, H)}, {}),
    "cache, causal": ({"past": floats(2, B, N, P, H)}, {"unidirectional": 1}),
    "cache, causal, padding": ({"past": floats(2, B, N, P, H), "mask": WITH_PAST}, {"unidirectional": 1}),
    "cache, lengths": ({"past": floats(2, B, N, P, H), "mask": LENGTHS + P}, {}),
    "cache, a mask per query": ({"past": floats(2, B, N, P, H), "mask": ints(B, S, S + P)}, {"unidirectional": 1}),
    "empty cache": ({"past": floats(2, B, N, 0, H)}, {"unidirectional": 1}),
    "sizes": ({"w": floats(C, 3 * C), "bias": floats(3 * C)}, {"qkv_hidden_sizes": [C, C, C]}),
    "wide values": (
        {"w": floats(C, 2 * C + 2 * C), "bias": floats(4 * C)},
        {"qkv_hidden_sizes": [C, C, 2 * C]},
    ),
}


@pytest.mark.parametrize("constant", [True, False], ids=["weights", "inputs"])
@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize(("changed", "attributes"), ATTENTION.values(), ids=ATTENTION)
def test_attention(changed: Values, attributes: dict[str, Any], named: bool, constant: bool) -> None:
    inputs: dict[str, Array | None] = {"x": X, "w": floats(C, 3 * C) / 5, "bias": floats(3 * C)}
    inputs |= {"mask": None, "past": None, "attention_bias": None} | dict(changed)
    weights = tuple(name for name in ("w", "bias") if inputs[name] is not None) if constant else ()
    outputs = 2 if inputs["past"] is not None else 1
    proto = model("Attention", inputs, {"num_heads": N, **attributes}, outputs=outputs, constant=weights, named=named)
    same(proto, inputs)


MULTI_HEAD: dict[str, tuple[Values, dict[str, Any], int]] = {
    "plain": ({}, {}, 1),
    "bias": ({"bias": floats(3 * C)}, {}, 1),
    "cache for the next": ({"bias": floats(3 * C)}, {}, 3),
    "lengths": ({"mask": LENGTHS}, {}, 1),
    "padding": ({"mask": PADDED, "bias": floats(3 * C)}, {"mask_filter_value": -3.0}, 1),
    "a mask per query": ({"mask": ints(B, S, S)}, {"scale": 0.3}, 1),
    "causal": ({"mask": PADDED}, {"unidirectional": 1}, 1),
    "numbers added": ({"attention_bias": floats(1, N, S, S), "mask": PADDED}, {}, 1),
    "cache": ({"past_key": floats(B, N, P, H), "past_value": floats(B, N, P, H) + 1}, {}, 3),
    "cache, bias, padding, causal": (
        {
            "past_key": floats(B, N, P, H),
            "past_value": floats(B, N, P, H) + 1,
            "bias": floats(3 * C),
            "mask": WITH_PAST,
        },
        {"unidirectional": 1},
        3,
    ),
    "cross": ({"key": floats(B, 7, C), "value": floats(B, 7, C) + 1}, {}, 1),
    "cross, wide values": ({"key": floats(B, 7, C), "value": floats(B, 7, 2 * C), "bias": floats(4 * C)}, {}, 1),
    "cross, heads apart": ({"key": floats(B, N, 7, H), "value": floats(B, N, 7, H) + 1}, {}, 1),
    "cross, heads apart, bias": (
        {"key": floats(B, N, 7, H), "value": floats(B, N, 7, H) + 1, "bias": floats(3 * C), "mask": ints(B, 7)},
        {},
        1,
    ),
}


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize(("changed", "attributes", "outputs"), MULTI_HEAD.values(), ids=MULTI_HEAD)
def test_multi_head(changed: Values, attributes: dict[str, Any], outputs: int, named: bool) -> None:
    inputs: dict[str, Array | None] = {"query": X, "key": SKIP, "value": floats(B, S, C) * 2}
    inputs |= {"bias": None, "mask": None, "attention_bias": None, "past_key": None, "past_value": None} | dict(changed)
    same(model("MultiHeadAttention", inputs, {"num_heads": N, **attributes}, outputs=outputs, named=named), inputs)


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


ANGLES = np.arange(20)[:, None] / 10000 ** (np.arange(0, H, 2) / H)
ROTARY: dict[str, tuple[Values, dict[str, Any]]] = {
    "positions": ({"positions": ints(B, S, high=20).astype(np.int64)}, {"num_heads": N}),
    "an offset": ({"positions": np.array([4])}, {"num_heads": N}),
    "interleaved": ({"positions": np.array([0])}, {"interleaved": 1, "num_heads": N}),
    "heads by size": ({"positions": np.array([2])}, {}),
    "four axes": ({"x": floats(B, N, S, H), "positions": np.array([2])}, {}),
    "four axes, positions": ({"x": floats(B, N, S, H), "positions": ints(B, S, high=20).astype(np.int64)}, {}),
    "a part": (
        {
            "positions": np.array([2]),
            "cosines": np.cos(ANGLES[:, :2]).astype("f"),
            "sines": np.sin(ANGLES[:, :2]).astype("f"),
        },
        {"num_heads": N, "rotary_embedding_dim": 4},
    ),
    "a scale": ({"positions": np.array([2])}, {"num_heads": N, "scale": 0.5}),
}


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize(("changed", "attributes"), ROTARY.values(), ids=ROTARY)
def test_rotary(changed: Values, attributes: dict[str, Any], named: bool) -> None:
    inputs: dict[str, Array | None] = {"x": X, "positions": None}
    inputs |= {"cosines": np.cos(ANGLES).astype("f"), "sines": np.sin(ANGLES).astype("f")} | dict(changed)
    same(model("RotaryEmbedding", inputs, attributes, named=named), inputs)


def test_layouts_are_an_error_that_says_how_to_save_the_model() -> None:
    found = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 20, "com.microsoft.nchwc": 1]>
        g (float[1,16,4,4] x) => (float[1,16,4,4] y) { y = com.microsoft.nchwc.ReorderInput (x) }"""
    )
    with pytest.raises(InputModelError, match=r"(?s)ReorderInput.*ORT_ENABLE_EXTENDED"):
        LiftContrib()(found)


WIDE, SHARED = 16, 2  # channels of a head of GroupQueryAttention, and its heads of keys
TURNS = np.arange(40)[:, None] / 10000 ** (np.arange(0, WIDE, 2) / WIDE)
GROUPED: dict[str, tuple[int, int, list[int], int, dict[str, Any]]] = {
    "prompt": (5, 0, [5, 5], 5, {"do_rotary": 1}),
    "prompt without rotation": (5, 0, [5, 5], 5, {}),
    "prompt, interleaved": (5, 0, [5, 5], 5, {"do_rotary": 1, "rotary_interleaved": 1}),
    "prompt, padded": (5, 0, [5, 3], 5, {"do_rotary": 1}),
    "prompt into a buffer": (5, 16, [5, 3], 5, {"do_rotary": 1}),
    "step": (1, 7, [8, 8], 8, {"do_rotary": 1}),
    "step, rows of different lengths": (1, 7, [8, 5], 8, {"do_rotary": 1}),
    "step in a buffer": (1, 16, [8, 5], 8, {"do_rotary": 1}),
    "step, window": (1, 7, [8, 8], 8, {"local_window_size": 3}),
    "prompt, window": (5, 0, [5, 5], 5, {"local_window_size": 2, "do_rotary": 1}),
    "cap": (1, 7, [8, 8], 8, {"softcap": 2.0}),
    "scale": (5, 0, [5, 5], 5, {"scale": 0.7}),
}


@pytest.mark.parametrize("packed", [False, True], ids=["apart", "packed"])
@pytest.mark.parametrize(("tokens", "past", "lengths", "total", "attributes"), GROUPED.values(), ids=GROUPED)
def test_grouped_queries(
    tokens: int, past: int, lengths: list[int], total: int, attributes: dict[str, Any], packed: bool
) -> None:
    wide = [floats(B, tokens, heads * WIDE) + heads for heads in (N, SHARED, SHARED)]
    inputs: dict[str, Array | None] = dict(zip(("query", "key", "value"), wide, strict=True))
    if packed:
        inputs = {"query": np.concatenate(wide, axis=-1), "key": None, "value": None}
    inputs |= {"past_key": floats(B, SHARED, past, WIDE), "past_value": floats(B, SHARED, past, WIDE) - 1}
    inputs |= {"seqlens_k": np.array(lengths, np.int32) - 1, "total": np.array(total, np.int32)}
    if "do_rotary" in attributes:
        inputs |= {"cosines": np.cos(TURNS).astype("f"), "sines": np.sin(TURNS).astype("f")}
    settings_ = {"num_heads": N, "kv_num_heads": SHARED, **attributes}
    same(model("GroupQueryAttention", inputs, settings_, outputs=3, named=False), inputs, keep=())


def test_what_stays_is_refused_for_other_runtimes_with_a_way_out() -> None:
    text = """<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]> g (float[2,2] x) => (float[2,2] y)
        { a = Relu (x) b = Neg (a) y = com.microsoft.Inverse (b) }"""
    with pytest.raises(TargetError, match=r"(?s)Inverse.*start from the export before its optimizer"):
        rewrite(ir.from_onnx_text(text), "lift", target="portable")
