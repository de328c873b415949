"""How far an approximation is from its reference, in one number."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def sqnr_db(reference: npt.ArrayLike, approximation: npt.ArrayLike) -> float:
    """Signal to quantization noise ratio, `10 log10(sum r**2 / sum (r - a)**2)`, in dB; higher is better.

    Without any error it is `inf`; an error on an all-zero reference gives `-inf`.

    >>> round(sqnr_db([3.0, 4.0], [3.0, 4.5]), 6)
    20.0
    """
    exact = np.asarray(reference, dtype=np.float64)
    noise = float(np.square(exact - np.asarray(approximation, dtype=np.float64)).sum())
    signal = float(np.square(exact).sum())
    if noise == 0.0:
        return float("inf")
    return float(10.0 * np.log10(signal / noise)) if signal else float("-inf")
