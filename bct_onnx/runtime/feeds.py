"""Valid model inputs without a tokenizer: random ones made from the declared inputs, or a user's `.npz` file.

An exported transformer declares what it needs in names (`attention_mask`, `past_key_values.0.key`) and in symbolic
dimensions (`batch_size`, `past_sequence_length + sequence_length`). Both are read here, so that any family runs.
"""

from __future__ import annotations

import difflib
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from bct_onnx.errors import TargetError, UsageError
from bct_onnx.runtime.inputs import Input, inputs_of, possible
from bct_onnx.runtime.session import run

Feeds = dict[str, np.ndarray[Any, Any]]

DEFAULT_VOCABULARY = 100  # small enough for any trained model, whose table could not be found


def random_feeds(
    inputs: ort.InferenceSession | ir.Model | Sequence[Input],
    *,
    batch: int = 1,
    sequence: int = 16,
    seed: int = 0,
    vocab: int | Mapping[str, int] | None = None,
    padding: bool = False,
    image: int = 224,
    past: int = 0,
) -> Feeds:
    """One valid sample: seeded token ids, masks of ones, empty key-value caches, normal floats.

    Caches of an encoder (cross-attention) have the length of its input. Impossible sizes are a `TargetError`.

    Args:
        inputs: The declared inputs, or what declares them.
        batch: Size of batch dimensions that are not fixed.
        sequence: Size of sequence dimensions that are not fixed; ``past`` more where past and sequence are one axis.
        seed: Seed of all values.
        vocab: Token ids stay below it; per input name as `vocabulary` gives it, or one number for all.
        padding: Give every row but the first a random length from half to all of `sequence`, padded at the right.
        image: Height and width of images that are not fixed.
        past: Length of the caches that are not fixed.
    """
    declared = inputs_of(inputs) if isinstance(inputs, ort.InferenceSession | ir.Model) else tuple(inputs)
    sizes = _Sizes(declared, batch, sequence, image, past)
    rng = np.random.default_rng(seed)
    lengths = rng.integers((sequence + 1) // 2, sequence + 1, size=batch) if padding else np.full(batch, sequence)
    lengths[:1] = sequence
    shapes = {i.name: possible(i, sizes.shape(i)) for i in declared}
    return {i.name: _values(i, shapes[i.name], rng, _below(i.name, vocab), lengths, past) for i in declared}


def load_feeds(path: str | Path, inputs: ort.InferenceSession | ir.Model | Sequence[Input]) -> Feeds:
    """One sample from an `.npz` file with an array per model input. Integers and floats are widened where it is exact.

    Raises:
        UsageError: The file cannot be read, a name is unknown or missing, or a dtype or shape does not fit.
    """
    declared = inputs_of(inputs) if isinstance(inputs, ort.InferenceSession | ir.Model) else tuple(inputs)
    arrays = fitted(read_arrays(path), declared, path)
    missing = [i.name for i in declared if i.name not in arrays]
    if missing:
        raise UsageError(f"no array for model input '{missing[0]}'", where=str(path), fix="add it to the file")
    return {i.name: arrays[i.name] for i in declared}


def read_arrays(path: str | Path) -> Feeds:
    """All arrays of an `.npz` file by name.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise UsageError(
            "cannot read the inputs", where=str(path), why=str(error), fix="write it with numpy.savez(path, **arrays)"
        ) from error


def fitted(arrays: Feeds, declared: Sequence[Input], path: str | Path) -> Feeds:
    """The arrays in the dtypes that the model declares.

    Raises:
        UsageError: A name is unknown, or a dtype or shape does not fit; ``path`` says where they come from.
    """
    by_name = {i.name: i for i in declared}
    for name in arrays:
        if name not in by_name:
            close = difflib.get_close_matches(name, by_name, 1)
            known = ", ".join(by_name)
            raise UsageError(
                f"the model has no input '{name}'",
                where=str(path),
                fix=f"did you mean '{close[0]}'?" if close else f"use {known}",
            )
    return {name: _fitted(array, by_name[name], path) for name, array in arrays.items()}


def is_fillable(name: str) -> bool:
    """Whether `random_feeds` knows what this input has to be when only the tokens are given.

    >>> [is_fillable(name) for name in ("attention_mask", "past_key_values.0.key", "input_ids")]
    [True, True, False]
    """
    return _kind(name) in ("branch", "mask", "types", "positions") or (_kind(name) == "past" and "encoder" not in name)


def longest_sequence(runner: ort.InferenceSession, at_most: int, vocab: Mapping[str, int]) -> int:
    """The longest sequence, up to ``at_most``, that a model runs on: its tables of positions end somewhere.

    Raises:
        TargetError: It runs on no sequence of random tokens, whatever the length.
    """
    fits, fails = 0, at_most + 1
    length = at_most
    while fits + 1 < fails:
        try:
            run(runner, random_feeds(runner, sequence=length, vocab=vocab))
        except TargetError:
            if length == 1:
                raise
            fails = length
        else:
            fits = length
        length = (fits + fails) // 2
    return fits


class _Sizes:
    """Sizes of symbolic dimensions, the same for the same symbol wherever it appears."""

    def __init__(self, inputs: Sequence[Input], batch: int, sequence: int, image: int, past: int) -> None:
        self._batch, self._sequence, self._image, self._past = batch, sequence, image, past
        self._symbols: dict[str, int] = {}
        # Inputs whose axes are known by their name speak first: an exporter may call the batch `s0`.
        for declared in sorted(inputs, key=lambda i: _kind(i.name) not in ("ids", "past", "image", "audio")):
            for axis, dim in enumerate(declared.shape):
                if isinstance(dim, str) and dim.isidentifier():
                    self._symbols.setdefault(dim, self._size(declared, axis, dim))

    def shape(self, declared: Input) -> tuple[int, ...]:
        return tuple(
            dim if isinstance(dim, int) else self._resolve(declared, axis, dim)
            for axis, dim in enumerate(declared.shape)
        )

    def _resolve(self, declared: Input, axis: int, dim: str | None) -> int:
        if _kind(declared.name) == "mask" and len(declared.shape) == 2 and axis == 1:
            # Whatever it is called: past plus sequence. An encoder's mask has the length of its input.
            return self._sequence + (0 if "encoder" in declared.name else self._past)
        terms = [term.strip() for term in (dim or "").split("+")]
        if all(term in self._symbols or term.isdigit() for term in terms):
            return sum(self._symbols[term] if term in self._symbols else int(term) for term in terms)
        return self._size(declared, axis, dim or "")

    def _size(self, declared: Input, axis: int, symbol: str) -> int:
        """By the symbol if it tells, else by what this input has on this axis, else batch first and sequence next."""
        name, kind = symbol.lower(), _kind(declared.name)
        if re.search(r"batch|^bs?$|^n$", name):
            return self._batch
        if re.search(r"encoder_seq", name) and kind not in ("features", "audio"):
            return self._sequence
        if re.search(r"total|kv_seq", name) and kind not in ("features", "audio"):
            return self._sequence + self._past
        if re.search(r"past|cache", name):
            return self._past
        usual = {
            "image": (self._batch, 3, self._image, self._image),
            "past": (self._batch, 1, self._sequence if "encoder" in declared.name else self._past, 1),
            "features": (self._batch, 80, 3000),
            "audio": (self._batch, 16000),  # one second; convolutional encoders need at least 25 ms
        }.get(kind, ())
        if axis < len(usual):
            return usual[axis]
        if re.search(r"seq|len|^s$|^t$", name) or (len(declared.shape) == 1 and kind == "positions"):
            return self._sequence
        return self._batch if axis == 0 else self._sequence


def _kind(name: str) -> str:
    """What an input is for, from its name."""
    patterns = (
        ("branch", r"use_cache"),
        ("past", r"past|cache\.|\bpkv|key_cache|value_cache"),
        ("mask", r"mask"),
        ("types", r"token_type|segment_ids"),
        ("positions", r"position"),
        ("image", r"pixel_values|image"),
        ("features", r"input_features"),
        ("audio", r"input_values|audio|waveform"),
        ("ids", r"ids|tokens"),
    )
    return next((kind for kind, pattern in patterns if re.search(pattern, name.lower())), "other")


def _values(
    declared: Input,
    shape: tuple[int, ...],
    rng: np.random.Generator,
    below: int,
    lengths: np.ndarray[Any, Any],
    past: int,
) -> np.ndarray[Any, Any]:
    kind, dtype = _kind(declared.name), declared.dtype
    floating = dtype.kind == "f" or dtype == ml_dtypes.bfloat16
    values: np.ndarray[Any, Any] = np.zeros(shape)
    if kind == "mask" and len(shape) == 2:
        earlier = past if shape[1] > max(lengths, default=0) else 0
        values = np.arange(shape[1]) < earlier + np.resize(lengths, shape[0])[:, None]
    elif kind == "mask" and not floating:  # floats on more axes are a term added to the scores: zeros
        values = np.ones(shape)
    elif kind == "positions" and not floating and shape:
        values = np.broadcast_to(past + np.arange(shape[-1]), shape)
    elif kind == "ids" and not floating:
        values = rng.integers(0, below, size=shape)
    elif floating and kind != "mask":
        values = rng.standard_normal(shape)
    return values.astype(dtype)


def _below(name: str, vocab: int | Mapping[str, int] | None) -> int:
    if isinstance(vocab, int):
        return vocab
    return (vocab or {}).get(name, DEFAULT_VOCABULARY)


def _fitted(array: np.ndarray[Any, Any], declared: Input, path: str | Path) -> np.ndarray[Any, Any]:
    where = f"{path}: '{declared.name}'"
    if not np.can_cast(array.dtype, declared.dtype, "safe"):
        raise UsageError(
            f"dtype {array.dtype} does not fit",
            where=where,
            why=f"the model declares {declared.dtype}",
            fix=f"save it with .astype('{declared.dtype}')",
        )
    pairs = zip(array.shape, declared.shape, strict=False)
    if array.ndim != len(declared.shape) or any(isinstance(dim, int) and size != dim for size, dim in pairs):
        dims = ", ".join("?" if dim is None else str(dim) for dim in declared.shape)
        raise UsageError(f"shape {list(array.shape)} does not fit", where=where, why=f"the model declares [{dims}]")
    return array.astype(declared.dtype)
