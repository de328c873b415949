"""What a model declares about its inputs, read the same way from a session and from a graph."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from bct_onnx.errors import InputModelError, TargetError, UsageError
from bct_onnx.graph import optional
from bct_onnx.graph.known import dims_of, sizes_of
from bct_onnx.graph.names import by_name, names_of

_DTYPES: dict[str, Any] = {
    "float": np.float32,
    "double": np.float64,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "bool": np.bool_,
    "string": np.object_,
    **{kind: np.dtype(kind) for kind in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
}


LARGEST = 1 << 26
"""Values of one input that are still made, 256 MB of float32: drawing them takes several times as much. More is a
mistake in the model's declarations, or takes more memory than a check is worth."""


@dataclass(frozen=True)
class Input:
    """A declared model input; a dimension is a size, a symbolic name, or None when nothing is known."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]


def inputs_of(model: ort.InferenceSession | ir.Model) -> tuple[Input, ...]:
    """The declared inputs of a session or a model, in order.

    Raises:
        TargetError: An input of a session is a sequence, map or optional, or of a type numpy cannot hold.
        InputModelError: One of a model is, or has no declared type or shape.
    """
    if isinstance(model, ort.InferenceSession):
        return tuple(Input(i.name, _dtype(i.name, i.type), tuple(i.shape)) for i in model.get_inputs())
    return tuple(map(_declared, itertools.filterfalse(optional.is_optional, model.graph.inputs)))


def fits(feeds: Mapping[str, np.ndarray[Any, Any]], inputs: Sequence[Input]) -> bool:
    """Whether a sample has all sizes that are fixed."""
    return all(_has_sizes(feeds[declared.name].shape, declared.shape) for declared in inputs if declared.name in feeds)


def _has_sizes(shape: tuple[int, ...], declared: tuple[int | str | None, ...]) -> bool:
    return all(dim in (None, size) or isinstance(dim, str) for size, dim in zip(shape, declared, strict=False))


def ids_input(inputs: Sequence[Input]) -> Input:
    """The input that takes token ids.

    Raises:
        UsageError: There is none.
    """
    ids = by_name(inputs).get("input_ids")
    ids = ids or next((i for i in inputs if i.dtype.kind == "i" and len(i.shape) == 2 and "ids" in i.name), None)
    if ids is None:
        raise UsageError("the model has no input of token ids", why=f"inputs are {', '.join(names_of(inputs))}")
    return ids


def cache_names(session: ort.InferenceSession) -> dict[str, str]:
    """The model's key-value cache: the output of new contents for each input of past ones; empty without a cache.

    Exporters name them differently (`past_key_values.0.key` and `present.0.key`) but list both in the same order.
    """
    past = past_inputs(session)
    present = [o.name for o in session.get_outputs() if "present" in o.name or "cache" in o.name or "past" in o.name]
    if len(past) == len(present):
        return dict(zip(past, present, strict=True))
    return {}


def past_inputs(model: ort.InferenceSession | ir.Model) -> list[str]:
    """Inputs of keys and values of tokens that were fed before."""
    return [i.name for i in inputs_of(model) if len(i.shape) >= 3 and ("past" in i.name or "cache" in i.name)]


def possible(declared: Input, shape: tuple[int, ...]) -> tuple[int, ...]:
    """``shape``, if a sample can have it.

    Raises:
        TargetError: One is negative, or the input has more than `LARGEST` values.
    """
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count > LARGEST:
        why = f"input {declared.name!r} is declared as {declared.dtype.name}{list(shape)}: {count:,} values"
        raise TargetError("no values can be made for an input", why=why, fix="correct its declared shape")
    return shape


def _dtype(name: str, ort_type: str) -> np.dtype[Any]:
    match = re.fullmatch(r"tensor\((\w+)\)", ort_type)
    if match is None or match[1] not in _DTYPES:
        why = f"input '{name}' is of type {ort_type}; tensors of numbers and strings can be made or read from a file"
        raise TargetError("no values can be made for an input", why=why)
    dtype: np.dtype[Any] = np.dtype(_DTYPES[match[1]])
    return dtype


def _declared(value: ir.Value) -> Input:
    name = value.name or ""
    if value.dtype is None or value.shape is None or not isinstance(value.type, ir.TensorType):
        raise InputModelError(f"input '{name}' has no declared tensor type and shape", fix="declare them in the model")
    return Input(name, np.dtype(value.dtype.numpy()), dims_of(value.shape))


def fixed_length(inputs: Sequence[Input]) -> int | None:
    """The number of tokens in a row, where tokens and masks have one that is fixed."""
    lengths = (declared.shape[1] for declared in inputs if len(declared.shape) == 2 and declared.dtype.kind == "i")
    return next(iter(sizes_of(lengths)), None)
