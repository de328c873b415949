"""How far an approximation is from its reference: the one formula of the signal to quantization noise ratio."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt


@dataclasses.dataclass(frozen=True)
class Error:
    """Squared error of an approximation, and what it is an approximation of. Errors of parts add up.

    Attributes:
        noise: ``sum (r - a)²``.
        signal: ``sum r²``.

    >>> Error.of([3.0, 4.0], [3.0, 4.5])
    Error(noise=0.25, signal=25.0)
    >>> (Error(0.125, 20.0) + Error(0.125, 5.0)).sqnr_db
    20.0
    """

    noise: float = 0.0
    signal: float = 0.0

    @classmethod
    def of(cls, reference: npt.ArrayLike, approximation: npt.ArrayLike) -> Error:
        """The error of an array of the same shape."""
        exact = np.asarray(reference, dtype=np.float64)
        noise = np.square(exact - np.asarray(approximation, dtype=np.float64)).sum()
        return cls(float(noise), float(np.square(exact).sum()))

    def __add__(self, other: Error) -> Error:
        return Error(self.noise + other.noise, self.signal + other.signal)

    @property
    def ratio(self) -> float:
        """Noise over signal; infinite where there is noise alone, NaN where it is not finite."""
        if self.noise == 0.0:
            return 0.0
        if self.signal:
            return self.noise / self.signal
        return math.inf

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise ratio, ``10 log10(signal / noise)``, in dB; higher is better.

        Without any noise it is inf; noise without a signal gives -inf, noise that is not finite -inf or NaN.
        """
        if self.noise == 0.0:
            return math.inf
        ratio = self.signal / self.noise
        if ratio:
            return 10.0 * math.log10(ratio)
        return -math.inf


def sqnr_db(reference: npt.ArrayLike, approximation: npt.ArrayLike) -> float:
    """`Error.sqnr_db` of an array of the same shape.

    >>> round(sqnr_db([3.0, 4.0], [3.0, 4.5]), 6)
    20.0
    """
    return Error.of(reference, approximation).sqnr_db
