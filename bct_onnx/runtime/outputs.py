"""What a model gives for one sample: arrays of numbers or texts, and sequences, maps and optionals of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bct_onnx.errors import UsageError

Outputs = Sequence[Any] | Mapping[str, Any]
"""Arrays by position or name, and for outputs that are sequences, maps or optional also lists, dictionaries, None."""


def flat(output: Any) -> Iterator[np.ndarray[Any, Any]]:
    """The arrays that an output, or a list of outputs, holds."""
    if isinstance(output, Mapping | list):
        for each in output.values() if isinstance(output, Mapping) else output:
            yield from flat(each)
    elif output is not None:
        yield np.asarray(output)


def pairs(name: str, reference: Any, candidate: Any) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """The arrays of one output of both models: one, or those of a sequence or map, element by element.

    Raises:
        UsageError: They differ in structure, shape, or in one being text and the other numbers.
    """
    if isinstance(reference, Mapping) and isinstance(candidate, Mapping) and reference.keys() == candidate.keys():
        reference, candidate = list(reference.values()), [candidate[key] for key in reference]
    if isinstance(reference, list) and isinstance(candidate, list) and len(reference) == len(candidate):
        for left, right in zip(reference, candidate, strict=True):
            yield from pairs(name, left, right)
        return
    if isinstance(reference, list | Mapping) or isinstance(candidate, list | Mapping):
        raise UsageError(
            f"output '{name}' has another structure", why=f"{_structure(reference)} and {_structure(candidate)}"
        )
    if (reference is None) != (candidate is None):
        raise UsageError(f"output '{name}' is there in one of the models only")
    left, right = np.asarray(reference), np.asarray(candidate)
    if left.shape != right.shape:
        raise UsageError(
            f"output '{name}' has another shape",
            why=f"{list(left.shape)} in the reference, {list(right.shape)} in the candidate",
        )
    if (left.dtype.kind in "OUS") != (right.dtype.kind in "OUS"):
        raise UsageError(f"output '{name}' has another type", why=f"{left.dtype} and {right.dtype}")
    if reference is not None:
        yield left, right


def _structure(output: Any) -> str:
    if isinstance(output, Mapping):
        return f"a map with the keys {', '.join(map(str, list(output)[:5]))}"
    if isinstance(output, list):
        return f"a sequence of {len(output)}"
    return "a tensor"
