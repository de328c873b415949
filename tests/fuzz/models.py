"""Valid models to start from: golden cases of every pass, hand-made ones with subgraphs or functions, a trained one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from tests.graph import handmade
from tests.passes import golden
from tests.runtime import tiny

Start = tuple[str, tuple[str, ...]]
"""A model's name, and the pipelines made for it (none: the presets)."""

LOOP = """<ir_version: 10, opset_import: ["" : 21]>
    loop (float[batch, 64] x) => (float[batch, 64] y) {
        count = Constant <value_int = 3> ()
        y = Loop (count, , x) <body = step (int64 i, bool go, float[b, 64] a) => (bool on, float[b, 64] d) {
            on = Identity (go)
            c = MatMul (a, w)
            d = Tanh (c)
        }>
    }"""

IF = """<ir_version: 10, opset_import: ["" : 21]>
    branches (float[batch, 64] x, bool use_cache_branch) => (float[batch, 64] y) {
        y = If (use_cache_branch) <
            then_branch = one () => (float[b, 64] a) { a = MatMul (x, w) },
            else_branch = two () => (float[b, 64] c) { p = MatMul (x, v)  c = Add (p, x) }>
    }"""

FUNCTIONS = """<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
    g (float[batch, 64] x) => (float[batch, 64] y) { h = local.layer <alpha = 0.5> (x, w)  y = local.layer (h, v) }
    <domain: "local", opset_import: ["" : 21, "local" : 1]> layer <alpha: float = 1.0> (a, m) => (b) {
        c = MatMul (a, m)
        b = local.act <alpha: float = @alpha> (c)
    }
    <domain: "local", opset_import: ["" : 21]> act <alpha> (a) => (b) { b = Elu <alpha: float = @alpha> (a) }"""

TRAINED = Path(__file__).resolve().parents[2] / "models" / "tiny-bert-sst2" / "model.onnx"
ROWS = 80
"""How many rows of the trained model's embedding table are kept."""


@functools.cache
def starts() -> tuple[Start, ...]:
    """Every model there is; the hand-made ones several times, as there are many golden cases."""
    made = [(name, ()) for name in (*_HANDMADE, "trained") for _ in range(4)]
    return (*made, *((f"golden {number}", _pipelines(case)) for number, case in enumerate(_cases())))


@functools.cache
def _serialized(name: str) -> bytes:
    data: bytes = _made(name).SerializeToString()
    return data


def _made(name: str) -> onnx.ModelProto:
    if name == "trained":
        return _cut(onnx.load(TRAINED))
    if name.startswith("golden "):
        return golden_model(_cases()[int(name.split()[1])])
    return _HANDMADE[name]()


def model(name: str) -> onnx.ModelProto:
    """A fresh copy of the model of this name."""
    proto = onnx.ModelProto()
    proto.ParseFromString(_serialized(name))
    return proto


def golden_model(case: golden.Case) -> onnx.ModelProto:
    """The model a golden case starts from."""
    proto: onnx.ModelProto = ir.to_proto(case.model(case.before))
    return proto


@functools.cache
def _cases() -> tuple[golden.Case, ...]:
    return tuple(golden.cases())


def _pipelines(case: golden.Case) -> tuple[str, ...]:
    return (",".join(filter(None, [case.directive("given", ""), str(case.rewrite())])),)


def _cut(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The trained model with the first rows of its embedding table alone."""
    for tensor in proto.graph.initializer:
        if tensor.name.endswith("word_embeddings.weight"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:ROWS], tensor.name))
    return proto


def _with(text: str, *names: str) -> onnx.ModelProto:
    return handmade.model(text, **{name: _normal(seed) for seed, name in enumerate(names)})


def _normal(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((64, 64), np.float32) / 8


_HANDMADE: dict[str, Callable[[], onnx.ModelProto]] = {
    "encoder": tiny.encoder,
    "decoder": tiny.decoder,
    "loop": lambda: _with(LOOP, "w"),
    "if": lambda: _with(IF, "w", "v"),
    "functions": lambda: _with(FUNCTIONS, "w", "v"),
    "matmul": lambda: handmade.weights(rows=64),
    "branches": lambda: handmade.model(handmade.BRANCHES),
}
