"""Floats in half the bytes: what float16 makes of an array, and whether it holds it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bct_onnx.quant.error import Error

LARGEST = 65504.0
"""The largest float16."""

NOISE = 1e-6
"""Most squared error over squared values; float16 has 1e-7 to 1e-8 wherever values are far from its limits."""

STRIP = 1 << 20
"""Values whose error is summed at a time."""


def halved(array: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.float16], Error]:
    """The values as float16, and their error.

    >>> halved(np.array([1.0, 1e6]))[1].noise
    inf
    """
    with np.errstate(over="ignore", invalid="ignore"):
        half = array.astype(np.float16)
        noise = signal = 0.0
        for start in range(0, array.size, STRIP):
            exact = array.reshape(-1)[start : start + STRIP].astype(np.float64)
            signal += float(exact @ exact)
            exact -= half.reshape(-1)[start : start + STRIP]
            noise += float(exact @ exact)
    return half, Error(noise, signal)


def holds(error: Error) -> bool:
    """Whether float16 holds an array of this error; not where it is not finite."""
    return error.noise <= NOISE * error.signal
