"""What comes in: each way gives values [batch, tokens, channels], and says how its inputs are fed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from tests.fuzz.grown import signals
from tests.fuzz.grown.builder import Array, Builder, Rng, Size

TOKEN_NAMES = ("input", "x", "src", "bytes", "text", "input_ids", "tokens", "phonemes", "sequence", "chars")
SIGNAL_NAMES = ("x", "input", "signal", "feats", "speech", "data", "audio_signal", "inputs")
PAD = 0


def front(b: Builder, channels: int) -> tuple[str, str | None]:
    """One way in: the values, and the token ids where there are any."""
    found: tuple[str, str | None] = b.pick(_FRONTS)(b, channels)
    return found


def tokens_input(b: Builder, vocabulary: int) -> str:
    """Ids of which the last ones of a text are padding."""

    def feed(rng: Rng, size: Size) -> Array:
        ids = rng.integers(1, vocabulary, (size.batch, size.tokens))
        ids[np.arange(size.tokens) >= size.lengths[:, None]] = PAD
        return ids.astype(dtype)

    dtype = b.pick((np.int64, np.int64, np.int32))
    return b.input(TOKEN_NAMES, dtype, b.dims(), feed)


def _table(b: Builder, rows: int, channels: int) -> Array:
    table = b.normal(rows, channels, scale=1.0)
    table[PAD] *= 0.1
    return table


def _ids(b: Builder, channels: int) -> tuple[str, str | None]:
    vocabulary = int(b.rng.integers(40, 400))
    b.note(f"{vocabulary} tokens")
    ids = tokens_input(b, vocabulary)
    return b.op("Gather", b.weight(_table(b, vocabulary, channels)), ids), ids


def _ids_as_floats(b: Builder, channels: int) -> tuple[str, str | None]:
    """Some exporters of other frameworks declare every input as float."""
    vocabulary = int(b.rng.integers(40, 400))
    b.note(f"{vocabulary} tokens as floats")

    def feed(rng: Rng, size: Size) -> Array:
        ids = rng.integers(1, vocabulary, (size.batch, size.tokens))
        ids[np.arange(size.tokens) >= size.lengths[:, None]] = PAD
        return ids.astype(np.float32)

    ids = b.op("Cast", b.input(TOKEN_NAMES, np.float32, b.dims(), feed), to=TensorProto.INT64)
    return b.op("Gather", b.weight(_table(b, vocabulary, channels)), ids), ids


def _bytes(b: Builder, channels: int) -> tuple[str, str | None]:
    """The beginning of a file, byte for byte; 256 is padding."""
    b.note("bytes of a file")

    def feed(rng: Rng, size: Size) -> Array:
        drawn = rng.integers(32, 127, (size.batch, size.tokens))
        drawn[np.arange(size.tokens) >= size.lengths[:, None]] = 256
        return drawn.astype(np.int32)

    ids = b.input(("bytes", "x", "content"), np.int32, b.dims(), feed)
    return b.op("Gather", b.weight(_table(b, 257, channels)), ids), None


def _characters(b: Builder, channels: int) -> tuple[str, str | None]:
    """Words of characters, [batch, words, characters]: the largest of each channel."""
    vocabulary = int(b.rng.integers(30, 90))
    b.note("characters of words")

    def feed(rng: Rng, size: Size) -> Array:
        return rng.integers(1, vocabulary, (size.batch, size.tokens, 6)).astype(np.int64)

    ids = b.input(("chars", "x", "char_ids"), np.int64, [*b.dims(), 6], feed)
    spelled = b.op("Gather", b.weight(_table(b, vocabulary, channels)), ids)
    if b.opset >= 18:
        return b.op("ReduceMax", spelled, b.ints(2), keepdims=0), None
    return b.op("ReduceMax", spelled, axes=[2], keepdims=0), None


def _ids_of_columns(b: Builder, channels: int) -> tuple[str, str | None]:
    vocabulary = int(b.rng.integers(40, 200))
    b.note(f"{vocabulary} tokens in columns of a table")
    ids = tokens_input(b, vocabulary)
    picked = b.op("Gather", b.weight(_table(b, vocabulary, channels).T), ids, axis=1)
    return b.op("Transpose", picked, perm=[1, 2, 0]), ids


def _one_hot(b: Builder, channels: int) -> tuple[str, str | None]:
    vocabulary = int(b.rng.integers(40, 200))
    b.note(f"{vocabulary} tokens by OneHot")
    ids = tokens_input(b, vocabulary)
    values = b.weight(np.array([0, 1], np.float32))
    wide = b.op("Cast", ids, to=TensorProto.INT64)  # ONNX Runtime has no kernel for others with floats
    hot = b.op("OneHot", wide, b.ints(vocabulary), values, axis=-1)
    return b.op("MatMul", hot, b.weight(_table(b, vocabulary, channels))), ids


def _picture_of_bytes(b: Builder, channels: int) -> tuple[str, str | None]:
    b.note("picture of bytes")
    side, patch = 16, 4

    def feed(rng: Rng, size: Size) -> Array:
        drawn = np.stack([signals.picture(rng, side, side) for _ in range(size.batch * 3)])
        return (255 * drawn).reshape(size.batch, 3, side, side).transpose(0, 2, 3, 1).astype(np.uint8)

    x = b.input(("image", "x", "input", "pixels"), np.uint8, ["batch", side, side, 3], feed)
    x = b.op("Div", b.op("Cast", x, to=1), b.scalar(b.pick((255.0, 127.5))))
    x = b.op("Sub", x, b.weight(np.array([0.5, 0.4, 0.6], np.float32)))
    count = side // patch
    x = b.op("Reshape", x, b.ints(0, count, patch, count, 3 * patch))
    x = b.op("Transpose", x, perm=[0, 1, 3, 2, 4])
    x = b.op("Reshape", x, b.ints(0, count * count, 3 * patch * patch))
    return b.op("MatMul", x, b.weight(2 * b.normal(3 * patch * patch, channels))), None


def _text_line(b: Builder, channels: int) -> tuple[str, str | None]:
    """A line of text: strokes of 32 rows, any width."""
    b.note("line of text")

    def feed(rng: Rng, size: Size) -> Array:
        lines = [signals.strokes(rng, 32, 4 * size.tokens) for _ in range(size.batch)]
        return (2 * np.stack(lines)[:, None] - 1).astype(np.float32)

    x = b.input(("x", "image", "input", "pixel_values"), np.float32, ["batch", 1, 32, "width"], feed)
    x = b.op("Conv", x, b.weight(b.normal(channels, 1, 32, 4, scale=128**-0.5)), strides=[32, 4])
    x = b.op("Reshape", x, b.ints(0, channels, -1))
    return b.op("Transpose", x, perm=[0, 2, 1]), None


def _picture_of_any_size(b: Builder, channels: int) -> tuple[str, str | None]:
    b.note("picture of any size")

    def feed(rng: Rng, size: Size) -> Array:
        high, wide = 8 * (2 + size.tokens // 12), 8 * (2 + size.tokens // 8)
        drawn = np.stack([signals.picture(rng, high, wide) for _ in range(3 * size.batch)])
        return ((drawn.reshape(size.batch, 3, high, wide) - 0.5) / 0.25).astype(np.float32)

    x = b.input(("pixel_values", "image", "x", "input"), np.float32, ["batch", 3, "height", "width"], feed)
    x = b.op("Conv", x, b.weight(b.normal(channels, 3, 8, 8, scale=192**-0.5)), strides=[8, 8])
    return b.op("Transpose", b.op("Reshape", x, b.ints(0, channels, -1)), perm=[0, 2, 1]), None


def _spectrum(b: Builder, channels: int) -> tuple[str, str | None]:
    bands = b.pick((20, 40))
    by_band = b.chance()
    b.note("spectrum [batch, bands, time]" if by_band else "spectrum [batch, time, bands]")

    def feed(rng: Rng, size: Size) -> Array:
        drawn = np.stack([signals.spectrum(rng, size.tokens, bands) for _ in range(size.batch)])
        return (drawn.transpose(0, 2, 1) if by_band else drawn).astype(np.float32)

    x = b.input(SIGNAL_NAMES, np.float32, ["batch", bands, "time"] if by_band else ["batch", "time", bands], feed)
    x = b.op("Transpose", x, perm=[0, 2, 1]) if by_band else x
    x = b.op("Mul", b.op("Add", x, b.scalar(4.0)), b.scalar(0.4))
    return b.op("MatMul", x, b.weight(b.normal(bands, channels))), None


def _wave(b: Builder, channels: int) -> tuple[str, str | None]:
    """Sound, of one row or several, in floats or as a file holds it."""
    hop, is_single, is_whole = 16, b.chance(0.2), b.chance(0.3)
    b.note(f"wave{' of one row' * is_single}{' in integers' * is_whole}")

    def feed(rng: Rng, size: Size) -> Array:
        rows = np.stack([signals.wave(rng, hop * size.tokens) for _ in range(size.batch)])
        rows = rows[0] if is_single else rows
        return (30_000 * rows).astype(np.int16) if is_whole else rows.astype(np.float32)

    dims = [b.pick(("samples", "n", "time"))] if is_single else ["batch", b.pick(("samples", "n", "time"))]
    x = b.input((*SIGNAL_NAMES, "waveform"), np.int16 if is_whole else np.float32, dims, feed)
    x = b.op("Div", b.op("Cast", x, to=TensorProto.FLOAT), b.scalar(32768.0)) if is_whole else x
    x = b.op("Unsqueeze", x, b.ints(0, 1) if is_single else b.ints(1))
    x = b.op("Conv", x, b.weight(4 * b.normal(channels, 1, hop, scale=hop**-0.5)), strides=[hop])
    return b.op("Transpose", b.op("Tanh", x), perm=[0, 2, 1]), None


_FRONTS: tuple[Callable[[Builder, int], tuple[str, str | None]], ...] = (
    *(_ids, _ids, _ids, _ids_as_floats, _ids_of_columns, _one_hot, _bytes, _characters),
    *(_picture_of_bytes, _picture_of_any_size, _text_line, _spectrum, _wave),
)
