"""A whole model, and samples for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from tests.fuzz.grown import fronts, layers, masks
from tests.fuzz.grown.builder import Array, Builder, Rng, Size

PICTURE_TOKENS = 16
"""Patches of a picture of bytes."""


@dataclasses.dataclass(frozen=True)
class GrownCase:
    """The two numbers that a model, its samples, and what it goes through are drawn from."""

    seed: int
    number: int

    def grow(self) -> Grown:
        """The model and its samples: always the same."""
        return grow(self.seed, self.number)

    def pipeline(self) -> tuple[str, str]:
        """Preset and target."""
        rng = np.random.default_rng([self.seed, self.number, 2])
        preset = rng.choice(["lift", "bct-plus", "bct-plus", "fast", "w4a8-nearest", "bct"])
        return str(preset), str(rng.choice(["ort-cpu", "ort-cpu", "ort-cpu", "portable", "ort-cpu-integer"]))

    def write(self, folder: Path) -> Path:
        """Write the model into ``folder``, with a file of inputs for each sample beside it."""
        grown = self.grow()
        for number, sample in enumerate(grown.samples):
            np.savez(folder / f"inputs{number}.npz", allow_pickle=False, **sample)
        path = folder / "model.onnx"
        path.write_bytes(grown.model.SerializeToString())
        return path

    def __str__(self) -> str:
        preset, target = self.pipeline()
        return f"{preset} for {target}: {', '.join(self.grow().about)}"


@dataclasses.dataclass(frozen=True)
class Grown:
    """A sound model.

    Attributes:
        model: The model.
        samples: Inputs as their meanings ask for, of several sizes.
        about: The choices made, in order.
    """

    model: onnx.ModelProto
    samples: list[dict[str, Array]]
    about: tuple[str, ...]


def grow(seed: int, number: int) -> Grown:
    """The model of two numbers: always the same."""
    rng = np.random.default_rng([seed, number])
    b = Builder(rng, int(rng.choice([13, 17, 18, 21])))
    b.fixed_tokens = int(rng.integers(8, 25)) if b.chance(0.25) else None
    heads = b.pick((2, 4))
    channels = heads * b.pick((8, 16))
    x, ids = fronts.front(b, channels)
    if "picture of bytes" in b.about:
        b.fixed_tokens = PICTURE_TOKENS
    counted = masks.kept(b, x, ids)
    x = _with_speaker(b, _with_positions(b, x, channels), channels)
    term = masks.bias(b, x, counted)
    for _ in range(int(rng.integers(1, 3))):
        x = _layer(b, x, channels, heads, term)
    _outputs(b, layers.norm(b, x, channels), channels, counted)
    return Grown(b.model(), _samples(b, np.random.default_rng([seed, number, 1])), tuple(b.about))


def _layer(b: Builder, x: str, channels: int, heads: int, term: str | None) -> str:
    """Normalized before its parts, or behind them."""
    if b.chance():
        x = b.op("Add", x, layers.attention(b, layers.norm(b, x, channels), channels, heads, term))
        return b.op("Add", x, layers.feed_forward(b, layers.norm(b, x, channels), channels))
    x = layers.norm(b, b.op("Add", x, layers.attention(b, x, channels, heads, term)), channels)
    return layers.norm(b, b.op("Add", x, layers.feed_forward(b, x, channels)), channels)


def _with_positions(b: Builder, x: str, channels: int) -> str:
    if b.chance(0.4):
        return x
    b.note("positions by table")
    table = b.weight(b.normal(64, channels, scale=0.3))
    if b.chance(0.3):
        dims = ["batch", "tokens" if b.fixed_tokens is None else b.fixed_tokens]

        def feed(rng: Rng, size: Size) -> Array:
            return np.broadcast_to(np.arange(size.tokens), (size.batch, size.tokens)).astype(np.int64)

        at = b.input(("position_ids", "pos", "places"), np.int64, dims, feed)
        return b.op("Add", x, b.op("Gather", table, at))
    return b.op("Add", x, b.op("Gather", table, masks.positions(b, x)))


def _with_speaker(b: Builder, x: str, channels: int) -> str:
    if b.chance(0.85):
        return x
    b.note("speaker")
    count = int(b.rng.integers(3, 20))

    def feed(rng: Rng, size: Size) -> Array:
        return rng.integers(0, count, (1,)).astype(np.int64)

    speaker = b.input(("sid", "speaker", "lang"), np.int64, [1], feed)
    row = b.op("Gather", b.weight(b.normal(count, channels, scale=0.5)), speaker)
    return b.op("Add", x, b.op("Unsqueeze", row, b.ints(0)))


def _outputs(b: Builder, x: str, channels: int, counted: str | None) -> None:
    kind = b.pick(("hidden", "tokens", "tokens", "text", "mean"))
    b.note(f"gives {kind}")
    if kind == "hidden":
        b.output(x, rank=3)
    elif kind == "tokens":
        classes = int(b.rng.integers(30, 200))
        logits = layers.linear(b, x, channels, classes + classes % 2)
        if b.chance():
            logits = b.op("Softmax", b.op("Mul", logits, b.scalar(float(b.pick((1.0, 4.0))))), axis=-1)
        b.output(logits, rank=3)
    elif kind == "text":
        first = b.op("Gather", x, b.scalar(0, np.int64), axis=1)
        b.output(b.op("MatMul", first, b.weight(b.normal(channels, 6))), rank=2)
    else:
        b.output(_mean_over_tokens(b, x, counted), rank=2)


def _mean_over_tokens(b: Builder, x: str, counted: str | None) -> str:
    if counted is None:
        return layers.reduced(b, "ReduceMean", x, 1, keepdims=0)
    mask = b.op("Unsqueeze", b.op("Cast", counted, to=TensorProto.FLOAT), b.ints(2))
    total, count = (b.op("ReduceSum", each, b.ints(1), keepdims=0) for each in (b.op("Mul", x, mask), mask))
    return b.op("Div", total, b.op("Max", count, b.scalar(1e-9)))


def _samples(b: Builder, rng: Rng) -> list[dict[str, Array]]:
    made = []
    for batch, tokens in ((1, 12), (3, 17), (2, 24)):
        length = b.fixed_tokens or tokens
        lengths = rng.integers((length + 1) // 2, length + 1, batch)
        lengths[0] = length
        size = Size(batch, length, lengths)
        made.append({name: feed(rng, size) for name, feed in b.feeds.items()})
    return made
