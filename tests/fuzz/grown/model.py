"""A whole model, and samples for it."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from tests.fuzz.grown import around, choices, fronts, layers, masks
from tests.fuzz.grown.builder import Array, Builder, Rng, Size

PICTURE_TOKENS = 16
"""Patches of a picture of bytes."""

SIZES, FEW = ((1, 12), (3, 17), (2, 24)), 10
"""Texts and tokens of the samples, and how often they are drawn where a text gives few numbers. The dB of 36 numbers,
six of each text, lie a dB and more beside those of thousands: too far for a limit of 4 dB between two of them."""


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
        preset = rng.choice(["lift", "bct-plus", "bct-plus", "fast", "w4a8-nearest", "w8a8", "bct"])
        return str(preset), str(rng.choice(["ort-cpu", "ort-cpu", "ort-cpu", "portable", "ort-cpu-integer"]))

    def write(self, folder: Path) -> Path:
        """Write the model into ``folder``, with a file of inputs for each sample beside it."""
        grown = self.grow()
        for number, sample in enumerate(grown.samples):
            np.savez(folder / f"inputs{number}.npz", **dict[str, Any](sample))
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
    b = Builder(rng, int(rng.choice([13, 15, 17, 18, 19, 21])))
    b.fixed_tokens = int(rng.integers(8, 25)) if b.chance(0.25) else None
    heads = b.pick((2, 4))
    channels = heads * b.pick((8, 16))
    x, ids = fronts.front(b, channels)
    if "picture of bytes" in b.about:
        b.fixed_tokens = PICTURE_TOKENS
    is_free = "picture of any size" in b.about  # nothing but the picture tells how many tokens there are
    b.fixed_tokens = None if is_free else b.fixed_tokens
    counted = None if is_free else masks.kept(b, x, ids)
    x = _beside(b, x, channels, is_free=is_free)
    other = None if is_free else around.memory(b, channels)
    term = masks.bias(b, x, counted)
    learned = around.relative(b, x, heads)
    if learned is not None:
        term = learned if term is None else b.op("Add", learned, term)
    for _ in range(int(rng.integers(1, 3))):
        x = _layer(b, x, channels, heads, term)
        x = x if other is None else around.cross_attention(b, x, other, channels, heads)
    _outputs(b, layers.norm(b, x, channels), channels, counted)
    model, drawn = b.model(), np.random.default_rng([seed, number, 1])
    return Grown(model, _samples(b, drawn, choices.Choices(model, b.scores)), tuple(b.about))


def _beside(b: Builder, x: str, channels: int, *, is_free: bool) -> str:
    """What is added to the values before the first layer."""
    if not is_free:
        x = around.with_segments(b, around.with_positions(b, x, channels), channels)
    return around.with_sequence(b, around.with_noise(b, around.with_speaker(b, x, channels)))


def _layer(b: Builder, x: str, channels: int, heads: int, term: str | None) -> str:
    """Normalized before its parts, or behind them."""
    if b.chance():
        normed = layers.norm(b, x, channels)
        mixed = around.with_adapter(b, normed, layers.attention(b, normed, channels, heads, term), channels)
        x = b.op("Add", x, mixed)
        return b.op("Add", x, layers.feed_forward(b, layers.norm(b, x, channels), channels))
    x = layers.norm(b, b.op("Add", x, layers.attention(b, x, channels, heads, term)), channels)
    return layers.norm(b, b.op("Add", x, layers.feed_forward(b, x, channels)), channels)


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
        if b.chance(0.3):
            b.note("and the best")
            best = b.op("ArgMax", logits, axis=-1, keepdims=0)
            b.output(best, TensorProto.INT64, rank=2)
    elif kind == "text":
        first = b.op("Gather", x, b.scalar(0, np.int64), axis=1)
        logits = b.op("MatMul", first, b.weight(b.normal(channels, 6)))
        b.output(logits, rank=2)
        if b.chance(0.4):
            b.note("and its name")
            best = b.op("ArgMax", logits, axis=-1, keepdims=0)
            labels = {"keys_int64s": list(range(6)), "values_strings": [f"class {i}" for i in range(6)]}
            b.output(b.op("LabelEncoder", best, domain="ai.onnx.ml", **labels), TensorProto.STRING, rank=1)
    else:
        b.output(_mean_over_tokens(b, x, counted), rank=2)


def _mean_over_tokens(b: Builder, x: str, counted: str | None) -> str:
    if counted is None:
        return layers.reduced(b, "ReduceMean", x, 1, keepdims=0)
    mask = b.op("Unsqueeze", b.op("Cast", counted, to=TensorProto.FLOAT), b.ints(2))
    total, count = (b.op("ReduceSum", each, b.ints(1), keepdims=0) for each in (b.op("Mul", x, mask), mask))
    return b.op("Div", total, b.op("Max", count, b.scalar(1e-9)))


def _samples(b: Builder, rng: Rng, chooses: choices.Choices) -> list[dict[str, Array]]:
    made = []
    is_single = any("of one row" in each for each in b.about)
    gives_few = not {"gives hidden", "gives tokens"} & set(b.about)
    for rows, tokens in FEW * SIZES if gives_few else SIZES:
        batch = 1 if is_single else rows
        length = b.fixed_tokens or tokens
        lengths = rng.integers((length + 1) // 2, length + 1, batch)
        lengths[0] = length
        size = Size(batch, length, lengths)
        given = b.defaults if rows > 1 else {}
        others = {name: 2 * default[::-1] for name, default in given.items()}
        made.append(chooses.clear(functools.partial(_fed, b, rng, size)) | others)
    return made


def _fed(b: Builder, rng: Rng, size: Size) -> dict[str, Array]:
    return {name: feed(rng, size) for name, feed in b.feeds.items()}
