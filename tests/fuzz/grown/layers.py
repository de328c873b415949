"""What a transformer consists of: products with weights in all places, normalizations, activations, attention."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.fuzz.grown.builder import Builder


def linear(b: Builder, x: str, k: int, n: int, *, shift: float = 0.0) -> str:
    """``x[batch, tokens, k]`` times a weight that lies anywhere, plus a bias around ``shift``."""
    place = b.pick(list(_PLACES))
    b.note(place)
    product = _PLACES[place](b, x, k, n)
    bias = b.normal(n, scale=0.1) + np.float32(shift)
    return b.op("Add", product, b.weight(bias))


def norm(b: Builder, x: str, channels: int) -> str:
    """Layer or RMS normalization over the channels, one operator or spelled out."""
    gain = b.weight((1 + 0.1 * b.rng.standard_normal(channels)).astype(np.float32))
    beta = b.weight(b.normal(channels, scale=0.05))
    kind = b.pick(("operator", "layer", "rms"))
    if kind == "operator" and b.opset >= 17:
        return b.op("LayerNormalization", x, gain, beta, axis=-1, epsilon=1e-5)
    if kind == "layer":
        x = b.op("Sub", x, _mean(b, x))
    squares = _mean(b, b.op("Mul", x, x))
    root = b.op("Sqrt", b.op("Add", squares, b.scalar(1e-5)))
    return b.op("Add", b.op("Mul", b.op("Div", x, root), gain), beta)


def _mean(b: Builder, x: str) -> str:
    return reduced(b, "ReduceMean", x, -1, keepdims=1)


def reduced(b: Builder, op_type: str, x: str, axis: int, *, keepdims: int) -> str:
    """A reduction over one axis, which is an input from opset 18 on."""
    if b.opset >= 18:
        return b.op(op_type, x, b.ints(axis), keepdims=keepdims)
    return b.op(op_type, x, axes=[axis], keepdims=keepdims)


def attention(b: Builder, x: str, channels: int, heads: int, bias: str | None, *, source: str = "") -> str:
    """Attention of ``x[batch, tokens, channels]`` to ``source``, or to itself."""
    width = channels // heads
    split = b.ints(0, -1, heads, width)
    read = (x, source or x, source or x)
    queries, keys, values = (b.op("Reshape", linear(b, each, channels, channels), split) for each in read)
    queries = b.op("Transpose", queries, perm=[0, 2, 1, 3])
    keys = b.op("Transpose", keys, perm=[0, 2, 3, 1])
    values = b.op("Transpose", values, perm=[0, 2, 1, 3])
    scores = b.op("Mul", b.op("MatMul", queries, keys), b.scalar(width**-0.5))
    scores = scores if bias is None else b.op("Add", scores, bias)
    mixed = b.op("MatMul", b.op("Softmax", scores, axis=-1), values)
    joined = b.op("Reshape", b.op("Transpose", mixed, perm=[0, 2, 1, 3]), b.ints(0, -1, channels))
    return linear(b, joined, channels, channels)


def feed_forward(b: Builder, x: str, channels: int) -> str:
    """Two products with an activation between them, or experts of which each text has its own."""
    if b.chance(0.15):
        return _experts(b, x, channels)
    inner = 2 * channels
    activation = b.pick(list(_ACTIVATIONS))
    b.note(activation)
    shift = float(b.pick((0.0, 0.0, 0.0, -4.0, 2.0)))
    hidden = _ACTIVATIONS[activation](b, linear(b, x, channels, inner, shift=shift))
    if b.chance(0.2):
        b.note("gated")
        hidden = b.op("Mul", hidden, linear(b, x, channels, inner))
    return linear(b, hidden, inner, channels)


def _experts(b: Builder, x: str, channels: int) -> str:
    b.note("experts")
    count = 4
    pooled = (
        b.op("ReduceMax", x, b.ints(1), keepdims=0) if b.opset >= 18 else b.op("ReduceMax", x, axes=[1], keepdims=0)
    )
    b.scores.append(b.op("MatMul", pooled, b.weight(b.normal(channels, count))))
    chosen = b.op("ArgMax", b.scores[-1], axis=-1, keepdims=0)
    up, down = b.normal(count, channels, 2 * channels), b.normal(count, 2 * channels, channels)
    hidden = b.op("Relu", b.op("MatMul", x, b.op("Gather", b.weight(up), chosen)))
    return b.op("MatMul", hidden, b.op("Gather", b.weight(down), chosen))


def _plain(b: Builder, x: str, k: int, n: int) -> str:
    return b.op("MatMul", x, b.weight(b.normal(k, n)))


def _gemm(b: Builder, x: str, k: int, n: int) -> str:
    flat = b.op("Reshape", x, b.ints(-1, k))
    turned = b.chance()
    weight = b.weight(b.normal(k, n).T if turned else b.normal(k, n))
    product = b.op("Gemm", flat, weight, transB=int(turned))
    rows = b.op("Slice", b.op("Shape", x), b.ints(0), b.ints(2))
    return b.op("Reshape", product, b.op("Concat", rows, b.ints(n), axis=0))


def _turned(b: Builder, x: str, k: int, n: int) -> str:
    return b.op("MatMul", x, b.op("Transpose", b.weight(b.normal(k, n).T), perm=[1, 0]))


def _constant_node(b: Builder, x: str, k: int, n: int) -> str:
    return b.op("MatMul", x, b.constant(b.normal(k, n)))


def _leading_one(b: Builder, x: str, k: int, n: int) -> str:
    return b.op("MatMul", x, b.weight(b.normal(k, n)[None]))


def _unsqueezed(b: Builder, x: str, k: int, n: int) -> str:
    return b.op("MatMul", x, b.op("Unsqueeze", b.weight(b.normal(k, n)), b.ints(0)))


def _reshaped(b: Builder, x: str, k: int, n: int) -> str:
    return b.op("MatMul", x, b.op("Reshape", b.weight(b.normal(k, n).reshape(-1)), b.ints(k, n)))


def _widened(b: Builder, x: str, k: int, n: int) -> str:
    return b.op("MatMul", x, b.op("Cast", b.weight(b.normal(k, n).astype(np.float16)), to=TensorProto.FLOAT))


def _on_the_left(b: Builder, x: str, k: int, n: int) -> str:
    turned = b.op("Transpose", x, perm=[0, 2, 1])
    return b.op("Transpose", b.op("MatMul", b.weight(b.normal(k, n).T), turned), perm=[0, 2, 1])


def _einsum(b: Builder, x: str, k: int, n: int) -> str:
    form = b.pick(("abc,cd->abd", "btk,nk->btn", "kn,btk->btn", "abc,cde->abde"))
    weight = b.normal(k, n)
    if form == "abc,cde->abde":
        parts = b.op("Einsum", x, b.weight(weight.reshape(k, 2, n // 2)), equation=form)
        return b.op("Reshape", parts, b.ints(0, 0, n))
    if form == "kn,btk->btn":
        return b.op("Einsum", b.weight(weight), x, equation=form)
    return b.op("Einsum", x, b.weight(weight if form == "abc,cd->abd" else weight.T), equation=form)


def _convolution(b: Builder, x: str, k: int, n: int) -> str:
    turned = b.op("Transpose", x, perm=[0, 2, 1])
    product = b.op("Conv", turned, b.weight(b.normal(k, n).T[:, :, None]), kernel_shape=[1])
    return b.op("Transpose", product, perm=[0, 2, 1])


def _picture_convolution(b: Builder, x: str, k: int, n: int) -> str:
    turned = b.op("Unsqueeze", b.op("Transpose", x, perm=[0, 2, 1]), b.ints(2))
    product = b.op("Conv", turned, b.weight(b.normal(k, n).T[:, :, None, None]))
    return b.op("Transpose", b.op("Squeeze", product, b.ints(2)), perm=[0, 2, 1])


def _in_a_branch(b: Builder, x: str, k: int, n: int) -> str:
    """Both branches multiply by the same weight of the outer graph, one of them scales what it gives."""
    weight, names = b.weight(b.normal(k, n)), [b.fresh("inner") for _ in range(4)]
    one = helper.make_node("MatMul", [x, weight], [names[0]])
    two = helper.make_node("MatMul", [x, weight], [names[1]])
    half = helper.make_node("Constant", [], [names[2]], value=numpy_helper.from_array(np.array(0.5, np.float32)))
    scaled = helper.make_node("Mul", [names[1], names[2]], [names[3]])
    count = b.op("Gather", b.op("Shape", x), b.scalar(0, np.int64))
    alone = b.op("Equal", count, b.scalar(1, np.int64))
    then, otherwise = b.branch([one], names[0]), b.branch([two, half, scaled], names[3])
    return b.op("If", alone, then_branch=then, else_branch=otherwise)


_PLACES: dict[str, Callable[[Builder, str, int, int], str]] = {
    "MatMul": _plain,
    "Gemm": _gemm,
    "Transpose of a weight": _turned,
    "Constant node": _constant_node,
    "leading one": _leading_one,
    "Unsqueeze of a weight": _unsqueezed,
    "Reshape of a weight": _reshaped,
    "Cast of a weight": _widened,
    "weight on the left": _on_the_left,
    "Einsum": _einsum,
    "Conv of one token": _convolution,
    "Conv of one pixel": _picture_convolution,
    "weight in branches": _in_a_branch,
}


def _gelu(b: Builder, x: str) -> str:
    inner = b.op("Erf", b.op("Div", x, b.scalar(2**0.5)))
    return b.op("Mul", b.op("Mul", x, b.op("Add", inner, b.scalar(1.0))), b.scalar(0.5))


def _gelu_by_tanh(b: Builder, x: str) -> str:
    cube = b.op("Mul", b.op("Mul", x, x), x)
    inner = b.op("Mul", b.op("Add", x, b.op("Mul", cube, b.scalar(0.044715))), b.scalar((2 / np.pi) ** 0.5))
    half = b.op("Mul", x, b.scalar(0.5))
    return b.op("Mul", half, b.op("Add", b.op("Tanh", inner), b.scalar(1.0)))


def _silu(b: Builder, x: str) -> str:
    return b.op("Mul", x, b.op("Sigmoid", x))


def _quick_gelu(b: Builder, x: str) -> str:
    return b.op("Mul", x, b.op("Sigmoid", b.op("Mul", x, b.scalar(1.702))))


def _hard_swish(b: Builder, x: str) -> str:
    return b.op("Mul", x, b.op("HardSigmoid", x, alpha=1 / 6, beta=0.5))


_ACTIVATIONS: dict[str, Callable[[Builder, str], str]] = {
    "GELU": _gelu,
    "GELU by tanh": _gelu_by_tanh,
    "SiLU": _silu,
    "quick GELU": _quick_gelu,
    "hard swish": _hard_swish,
    "Relu": lambda b, x: b.op("Relu", x),
    "Tanh": lambda b, x: b.op("Tanh", x),
    "Sigmoid": lambda b, x: b.op("Sigmoid", x),
}
