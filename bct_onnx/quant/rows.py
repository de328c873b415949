"""Codes of 8 bits with one scale for all values along some axes, for arrays that are no matrices."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bct_onnx.quant.error import Error

LARGEST = 127
"""Largest code, and the smallest but for its sign."""


class Rows(NamedTuple):
    """An array as ``codes * scale``.

    Attributes:
        codes: Of the array's shape.
        scale: Of as many axes, of length 1 where values share one.
        error: Of the whole array; not finite where a value is not.
    """

    codes: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]
    error: Error


def coded(array: npt.NDArray[np.floating], axes: tuple[int, ...]) -> Rows:
    """The nearest codes from -127 to 127, with scales for which the largest value along ``axes`` is 127.

    >>> coded(np.float32([[-254, 2]]), (1,))[:2]
    (array([[-127,    1]], dtype=int8), array([[2.]], dtype=float32))
    """
    largest = np.max(np.abs(array), axis=axes, keepdims=True).astype(np.float32)
    scale = np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)
    if not np.isfinite(largest).all():
        return Rows(np.zeros(array.shape, np.int8), scale, Error(np.inf, np.inf))
    codes = np.rint(array / scale).astype(np.int8)
    return Rows(codes, scale, Error.of(array, codes * scale))
