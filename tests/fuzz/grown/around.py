"""What exports have beside the layers: speakers, noise, adapters, caches, sequences, relative positions."""

from __future__ import annotations

import numpy as np

from tests.fuzz.grown import layers, masks
from tests.fuzz.grown.builder import Array, Builder, Rng, Size

PAST = 5
"""Tokens that a cache holds."""


def with_positions(b: Builder, x: str, channels: int) -> str:
    """Learned positions, counted or fed."""
    if b.chance(0.4):
        return x
    b.note("positions by table")
    table = b.weight(b.normal(64, channels, scale=0.3))
    if b.chance(0.3):

        def feed(rng: Rng, size: Size) -> Array:
            return np.broadcast_to(np.arange(size.tokens), (size.batch, size.tokens)).astype(np.int64)

        at = b.input(("position_ids", "pos", "places"), np.int64, b.dims(), feed)
        return b.op("Add", x, b.op("Gather", table, at))
    return b.op("Add", x, b.op("Gather", table, masks.positions(b, x)))


def with_speaker(b: Builder, x: str, channels: int) -> str:
    """One row of a small table for all."""
    if b.chance(0.85):
        return x
    b.note("speaker")
    count = int(b.rng.integers(3, 20))

    def feed(rng: Rng, size: Size) -> Array:
        return rng.integers(0, count, (1,)).astype(np.int64)

    speaker = b.input(("sid", "speaker", "lang"), np.int64, [1], feed)
    row = b.op("Gather", b.weight(b.normal(count, channels, scale=0.5)), speaker)
    return b.op("Add", x, b.op("Unsqueeze", row, b.ints(0)))


def with_segments(b: Builder, x: str, channels: int) -> str:
    """First and second text of a pair."""
    if b.chance(0.85):
        return x
    b.note("segments")

    def feed(rng: Rng, size: Size) -> Array:
        return (np.arange(size.tokens) >= size.lengths[:, None] // 2).astype(np.int64)

    segments = b.input(("token_type_ids", "segments", "types"), np.int64, b.dims(), feed)
    return b.op("Add", x, b.op("Gather", b.weight(b.normal(2, channels, scale=0.3)), segments))


def with_noise(b: Builder, x: str) -> str:
    """Noise of a size that is fed: none, so that results can be compared."""
    if b.chance(0.9):
        return x
    b.note("noise")
    kinds = ("RandomNormalLike", "RandomUniformLike")
    drawn = b.op(b.pick(kinds), x)
    name = ("scales", "noise_scale", "temperature")
    scale = b.input(name, np.float32, [1], lambda rng, size: np.zeros(1, np.float32))
    return b.op("Add", x, b.op("Mul", drawn, scale))


def with_sequence(b: Builder, x: str) -> str:
    """Cut in two along the channels and joined again, through a sequence."""
    if b.chance(0.92):
        return x
    b.note("sequence")
    parts = b.op("SplitToSequence", x, b.weight(np.array(8, np.int64)), axis=-1)
    first = b.op("SequenceAt", parts, b.scalar(0, np.int64))
    rest = b.op("SequenceErase", parts, b.scalar(0, np.int64))
    return b.op("ConcatFromSequence", b.op("SequenceInsert", rest, first, b.scalar(0, np.int64)), axis=-1)


def with_adapter(b: Builder, x: str, y: str, channels: int) -> str:
    """A product of two thin matrices beside a layer; both are inputs with defaults."""
    if b.chance(0.92):
        return y
    b.note("adapter")
    down = b.optional_input("lora_a", b.normal(channels, 4))
    up = b.optional_input("lora_b", b.normal(4, channels, scale=0.3))
    return b.op("Add", y, b.op("MatMul", b.op("MatMul", x, down), up))


def relative(b: Builder, x: str, heads: int) -> str | None:
    """A learned term for each distance, [1, heads, tokens, tokens]."""
    if b.chance(0.85):
        return None
    b.note("relative positions")
    at = masks.positions(b, x)
    distance = b.op("Sub", b.op("Unsqueeze", at, b.ints(1)), b.op("Unsqueeze", at, b.ints(0)))
    near = b.op("Max", b.op("Min", distance, b.scalar(7, np.int64)), b.scalar(-8, np.int64))
    bucket = b.op("Add", near, b.scalar(8, np.int64))
    term = b.op("Gather", b.weight(b.normal(16, heads, scale=1.0)), bucket)
    return b.op("Unsqueeze", b.op("Transpose", term, perm=[2, 0, 1]), b.ints(0))


def memory(b: Builder, channels: int) -> str | None:
    """What another model has made of another text: [batch, other tokens, channels]."""
    if b.chance(0.9):
        return None
    b.note("cross-attention")

    def feed(rng: Rng, size: Size) -> Array:
        return rng.standard_normal((size.batch, size.tokens // 2 + 3, channels)).astype(np.float32)

    names = ("memory", "encoder_hidden_states", "context")
    return b.input(names, np.float32, ["batch", "other_tokens", channels], feed)


def cross_attention(b: Builder, x: str, other: str, channels: int, heads: int) -> str:
    """Attention of ``x`` to ``other``, which sees all of it."""
    return b.op("Add", x, layers.attention(b, x, channels, heads, None, source=other))
