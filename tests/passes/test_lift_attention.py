"""ONNX Runtime's own attention, in all forms of its CPU provider, gives what its lifted form gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from bct_onnx.graph.tensors import Array
from tests.passes.own_operators import (
    HIDDEN,
    LENGTHS,
    PADDED,
    SKIP,
    STARTS,
    WITH_PAST,
    B,
    C,
    H,
    N,
    P,
    S,
    Values,
    X,
    floats,
    ints,
    model,
    same,
)

SINCE = {
    "no bias": ("1.32", "older ones crash on an Attention without a bias"),
    "prompt, window": ("1.24", "older ones give a prompt another window"),
}
"""What the operators themselves, before they are lifted, need of ONNX Runtime."""


def cases(known: Mapping[str, tuple[Any, ...]]) -> list[Any]:
    """Parameters with the version that they need."""
    marks = {name: [pytest.mark.since(*SINCE[name])] if name in SINCE else [] for name in known}
    return [pytest.param(*values, marks=marks[name]) for name, values in known.items()]


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
@pytest.mark.parametrize(("changed", "attributes"), cases(ATTENTION), ids=ATTENTION)
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
@pytest.mark.parametrize(("tokens", "past", "lengths", "total", "attributes"), cases(GROUPED), ids=GROUPED)
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
