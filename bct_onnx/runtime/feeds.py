"""Valid model inputs without a tokenizer: random ones made from the declared inputs, or a user's `.npz` file.

An exported transformer declares what it needs in names (`attention_mask`, `past_key_values.0.key`) and in symbolic
dimensions (`batch_size`, `past_sequence_length + sequence_length`). Both are read here, so that any family runs.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from bct_onnx.errors import UsageError, nearest
from bct_onnx.graph import names
from bct_onnx.graph.names import entries, names_of, without
from bct_onnx.runtime.inputs import Input, ids_input, inputs_of
from bct_onnx.runtime.understanding.meaning import by_name, kind_by_name
from bct_onnx.runtime.understanding.sizes import FreeSizes
from bct_onnx.runtime.understanding.values import Draw, make

Feeds = dict[str, np.ndarray[Any, Any]]


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
    """One valid sample by what is declared alone: seeded token ids, masks of ones, empty key-value caches, signals.

    `bct_onnx.runtime.understanding.Sampler` knows more: it looks at what the graph does with each input.
    Caches of an encoder (cross-attention) have the length of its input. Impossible sizes are a `TargetError`.

    Args:
        inputs: The declared inputs, or what declares them.
        batch: Size of batch dimensions that are not fixed.
        sequence: Size of sequence dimensions that are not fixed; ``past`` more where past and sequence are one axis.
        seed: Seed of all values.
        vocab: Token ids stay below it; per input name, or one number for all.
        padding: Give every row but the first a random length from half to all of `sequence`, padded at the right.
        image: Height and width of images that are not fixed.
        past: Length of the caches that are not fixed.
    """
    declared = _declared(inputs)
    names = names_of(declared)
    below = dict.fromkeys(names, vocab) if isinstance(vocab, int) else dict(vocab or {})
    meanings = {model_input.name: by_name(model_input, below.get(model_input.name)) for model_input in declared}
    sizes = FreeSizes(batch=batch, sequence=sequence, past=past, image=(image, image))
    return make(declared, meanings, sizes, Draw(seed, padding))


def load_feeds(path: str | Path, inputs: ort.InferenceSession | ir.Model | Sequence[Input]) -> Feeds:
    """One sample from an `.npz` file with an array per model input. Integers and floats are widened where it is exact.

    Raises:
        UsageError: The file cannot be read, a name is unknown or missing, or a dtype or shape does not fit.
    """
    declared = _declared(inputs)
    arrays = fitted(read_arrays(path), declared, path)
    missing = names_of(without(declared, arrays))
    if missing:
        raise UsageError(f"no array for model input '{missing[0]}'", where=str(path), fix="add it to the file")
    return entries(arrays, names_of(declared))


def _declared(inputs: ort.InferenceSession | ir.Model | Sequence[Input]) -> tuple[Input, ...]:
    if isinstance(inputs, ort.InferenceSession | ir.Model):
        return inputs_of(inputs)
    return tuple(inputs)


def read_arrays(path: str | Path) -> Feeds:
    """All arrays of an `.npz` file by name.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise UsageError(
            "cannot read the inputs", where=str(path), why=str(error), fix="write it with numpy.savez(path, **arrays)"
        ) from error


def fitted(arrays: Feeds, declared: Sequence[Input], path: str | Path) -> Feeds:
    """The arrays in the dtypes that the model declares.

    Raises:
        UsageError: A name is unknown, or a dtype or shape does not fit; ``path`` says where they come from.
    """
    inputs = names.by_name(declared)
    for name in arrays:
        if name not in inputs:
            fix = nearest(name, inputs, "its inputs")
            raise UsageError(f"the model has no input '{name}'", where=str(path), fix=fix)
    return {name: _fitted(array, inputs[name], path) for name, array in arrays.items()}


def beside_tokens(inputs: Sequence[Input]) -> list[str]:
    """Names of the inputs that token ids do not tell the values of, those ids apart.

    Raises:
        UsageError: The model takes no token ids.
    """
    ids = ids_input(inputs).name
    return [name for name in names_of(inputs) if name != ids and not is_fillable(name)]


def is_fillable(name: str) -> bool:
    """Whether `random_feeds` knows what this input has to be when only the tokens are given.

    >>> [is_fillable(name) for name in ("attention_mask", "past_key_values.0.key", "input_ids")]
    [True, True, False]
    """
    kind = kind_by_name(name)
    return kind in ("branch", "mask", "types", "positions") or (kind == "past" and "encoder" not in name)


def fits_declared(shape: Sequence[int], declared: Input) -> bool:
    """Whether a shape has the rank and the fixed sizes of an input."""
    pairs = zip(shape, declared.shape, strict=False)
    return len(shape) == len(declared.shape) and not any(isinstance(dim, int) and size != dim for size, dim in pairs)


def _fitted(array: np.ndarray[Any, Any], declared: Input, path: str | Path) -> np.ndarray[Any, Any]:
    where = f"{path}: '{declared.name}'"
    if not np.can_cast(array.dtype, declared.dtype, "safe"):
        raise UsageError(
            f"dtype {array.dtype} does not fit",
            where=where,
            why=f"the model declares {declared.dtype}",
            fix=f"save it with .astype('{declared.dtype}')",
        )
    if not fits_declared(array.shape, declared):
        dims = ", ".join("?" if dim is None else str(dim) for dim in declared.shape)
        raise UsageError(f"shape {list(array.shape)} does not fit", where=where, why=f"the model declares [{dims}]")
    return array.astype(declared.dtype)
