"""Models with one head of attention, made from inputs that are to be understood."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from bct_onnx.runtime.session import session
from bct_onnx.runtime.understanding import Sampler
from tests.graph import handmade
from tests.passes.small import normal

HEAD = '<ir_version: 10, opset_import: ["" : 21]>'

ROWS = 37
"""Of the table of tokens."""

ATTENTION = """
    q = MatMul (e, wq)  k = MatMul (e, wk)
    kt = Transpose <perm = [0, 2, 1]> (k)
    s0 = MatMul (q, kt)
    {scores}
    p = Softmax <axis = -1> (s)
    z = MatMul (p, e)
    y = MatMul (z, wo)"""
"""One head on ``e`` [batch, tokens, 8]; what hides keys comes between."""

FREE = "s = Identity (s0)"
PLACES = """
    shape = Shape <start = 1, end = 2> (e)
    size = Squeeze (shape)
    at = Range (zero, size, one)"""
WEIGHTS = {"wq": normal(8, 8, seed=1), "wk": normal(8, 8, seed=2), "wo": normal(8, 5, seed=3)}
NUMBERS = {
    "zero": np.array(0),
    "one": np.array(1),
    "ax1": np.array([1]),
    "ax2": np.array([2]),
    "low": np.array(-1e9, np.float32),
    "none": np.array(0, np.float32),
    "unit": np.array(1, np.float32),
    "infinite": np.array(-np.inf, np.float32),
}


def sampler(inputs: str, nodes: str, scores: str = FREE, /, **arrays: Any) -> Sampler:
    """Of a model that makes ``e`` from its inputs, and attends."""
    known = {"table": normal(ROWS, 8), **WEIGHTS, **NUMBERS, **arrays}
    body = nodes + ATTENTION.replace("{scores}", scores)
    text = f"{HEAD} g ({inputs}) => (float[batch,tokens,5] y) {{ {body} }}"
    target = ir.from_proto(handmade.model(text, **{name: array for name, array in known.items() if name in body}))
    return Sampler(target, session(target))


def kinds(one: Sampler) -> dict[str, str]:
    return {name: meaning.kind for name, meaning in one.meanings.items()}
