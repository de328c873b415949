"""What attention may not see: each way gives a term for the scores [batch or 1, 1, tokens or 1, tokens], or nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from tests.fuzz.grown.builder import Array, Builder, Rng, Size
from tests.fuzz.grown.fronts import PAD

HIDDEN = (-1e4, -1e9, float("-inf"), -3.4028235e38)


def kept(b: Builder, x: str, ids: str | None) -> str | None:
    """Which tokens count, as bool [batch, tokens]; None where all do."""
    choices = ["none", "keep", "pad", "float", "lengths", "lengths"] + ["ids", "ids"] * (ids is not None)
    choice = b.pick(choices)
    b.note(f"mask: {choice}")
    dims = b.dims()

    if choice == "keep":
        dtype = b.pick((np.int64, np.int32, np.bool_))
        mask = b.input(
            ("attention_mask", "mask", "valid", "m"), dtype, dims, lambda rng, size: _keep(size).astype(dtype)
        )
        return mask if dtype is np.bool_ else b.op("Cast", mask, to=TensorProto.BOOL)
    if choice == "pad":
        names = ("padding_mask", "src_key_padding_mask", "mask", "pad")
        return b.op("Not", b.input(names, np.bool_, dims, lambda rng, size: ~_keep(size)))
    if choice == "float":
        names = ("mask", "attention_mask", "weights", "valid")
        mask = b.input(names, np.float32, dims, lambda rng, size: _keep(size).astype(np.float32))
        return b.op("Greater", mask, b.scalar(0.5))
    if choice == "lengths":
        return _from_lengths(b, x)
    if choice == "ids":
        assert ids is not None
        wide = b.op("Cast", ids, to=TensorProto.INT64)
        return b.op("Not", b.op("Equal", wide, b.scalar(PAD, np.int64)))
    return None


def bias(b: Builder, x: str, counted: str | None) -> str | None:
    """The term for the scores, of what counts and of positions; None where there is neither."""
    place = b.pick(("none", "none", "causal", "causal", "window", "distance"))
    if place == "none" and counted is None:
        return None
    b.note(f"positions: {place}")
    lows = HIDDEN if counted is None or place == "none" else HIDDEN[:2]  # infinite ones may hide all: NaN
    terms = []
    if counted is not None:
        terms.append(_hidden(b, b.op("Unsqueeze", counted, b.ints(1, 2)), lows))
    if place != "none":
        terms.append(_of_positions(b, x, place, lows))
    return terms[0] if len(terms) == 1 else b.op("Add", *terms)


def _keep(size: Size) -> Array:
    return np.arange(size.tokens) < size.lengths[:, None]


def _hidden(b: Builder, allowed: str, lows: Sequence[float]) -> str:
    """0 where allowed, else a number that leaves nothing after a softmax."""
    low = float(b.pick(lows))
    if low > -1e30 and b.chance():
        off = b.op("Sub", b.scalar(1.0), b.op("Cast", allowed, to=TensorProto.FLOAT))
        return b.op("Mul", off, b.scalar(low))
    return b.op("Where", allowed, b.scalar(0.0), b.scalar(low))


def positions(b: Builder, x: str, kind: type = np.int64) -> str:
    """0, 1, 2, ... of the tokens of ``x``, computed or constant."""
    if b.fixed_tokens is not None and b.chance():
        return b.constant(np.arange(b.fixed_tokens, dtype=kind))
    count = b.op("Gather", b.op("Shape", x), b.scalar(1, np.int64))
    counted = b.op("Range", b.scalar(0, np.int64), count, b.scalar(1, np.int64))
    return counted if kind is np.int64 else b.op("Cast", counted, to=TensorProto.INT32)


def _of_positions(b: Builder, x: str, place: str, lows: Sequence[float]) -> str:
    at = positions(b, x)
    column, row = b.op("Unsqueeze", at, b.ints(1)), b.op("Unsqueeze", at, b.ints(0))
    distance = b.op("Sub", column, row)
    if place == "distance":
        far = b.op("Cast", b.op("Abs", distance), to=TensorProto.FLOAT)
        return b.op("Mul", far, b.scalar(-float(b.rng.uniform(0.05, 0.5))))
    allowed = b.op("GreaterOrEqual", distance, b.scalar(0, np.int64))
    if place == "window":
        near = b.op("Less", distance, b.scalar(int(b.rng.integers(2, 5)), np.int64))
        allowed = b.op("And", allowed, near)
    return _hidden(b, allowed, lows)


def _from_lengths(b: Builder, x: str) -> str:
    dtype = b.pick((np.int64, np.int32))

    def feed(rng: Rng, size: Size) -> Array:
        return size.lengths.astype(dtype)

    lengths = b.input(("lengths", "length", "x_lens", "input_lengths", "n"), dtype, ["batch"], feed)
    row = b.op("Unsqueeze", positions(b, x, dtype), b.ints(0))
    return b.op("Less", row, b.op("Unsqueeze", lengths, b.ints(1)))
