"""Codes of 8 bits with one scale for each run of values, for arrays that are no matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bct_onnx.quant import halves
from bct_onnx.quant.error import Error

LARGEST = 127
"""Largest code, and the smallest but for its sign."""

LENGTH = 32
"""Values that share a scale, where the shape allows it."""

SHORTEST, LONGEST = 8, 64
"""A float16 for fewer values would take more than a quarter of what the codes save; of more, one dwarfs the rest."""


class Runs(NamedTuple):
    """An array as ``codes * scale``.

    Attributes:
        codes: [runs, length].
        scale: [runs, 1], float16 where that holds it.
        error: Of the whole array; not finite where a value is not.
    """

    codes: npt.NDArray[np.int8]
    scale: npt.NDArray[np.floating]
    error: Error


def length_for(shape: Sequence[int]) -> int:
    """Values of a run in an array of this shape: about `LENGTH`, none of which belongs to another index of the first
    axis, where a convolution has its output channels.

    >>> [length_for(shape) for shape in ((64, 32, 3, 3), (64, 1, 3, 3), (64, 1, 7, 7), (1, 400, 100), (64, 1, 3))]
    [32, 9, 49, 25, 3]
    """
    together = 1
    for size in reversed(shape[1:]):
        together *= size
        if together >= LENGTH:
            break
    fitting = [length for length in range(SHORTEST, LONGEST + 1) if together % length == 0]
    return min(fitting, key=lambda length: abs(math.log(length / LENGTH)), default=together)


def coded(array: npt.NDArray[np.floating], length: int) -> Runs:
    """The nearest codes from -127 to 127, with scales for which the largest value of a run of ``length`` is 127.

    >>> coded(np.float32([[-254, 2]]), 2)[:2]
    (array([[-127,    1]], dtype=int8), array([[2.]], dtype=float16))
    """
    runs = array.reshape(-1, length)
    largest = np.max(np.abs(runs), axis=1, keepdims=True).astype(np.float32)
    scale: npt.NDArray[np.floating] = np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)
    if not np.isfinite(largest).all():
        return Runs(np.zeros(runs.shape, np.int8), scale, Error(np.inf, np.inf))
    half, error = halves.halved(scale)
    if halves.holds(error):
        scale = half
    wide = scale.astype(np.float32)
    codes = np.clip(np.rint(runs / wide), -LARGEST, LARGEST).astype(np.int8)
    return Runs(codes, scale, Error.of(runs, codes * wide))
