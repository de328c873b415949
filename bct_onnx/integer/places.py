"""Whether a form of a function holds at a place: how far its codes are from the exact ones, for every code going in.

A bound in real units says little where results are small: x sigmoid(x) with a sigmoid in steps of 1/255 is off by
0.012 at x = -6, which is a step of the result where x reaches 5, and forty where it stays below -4. The scales of a
place are constants, and a function of one code has 256 results, so that all of them can be looked at.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from bct_onnx.integer.kernel import Array, Kernel
from bct_onnx.quant import Error

STEPS = 4.0
"""Greatest distance of a form from the exact result, in steps of the result, at which it is taken. Rounding alone gives
half a step; on trained models (BERT and GPT-2 sizes) the forms of GELU reach 3.5."""

ENOUGH, NEAR = 20.0, 1.5
"""Of the values that were seen at a place a form keeps so many dB, or so many less than correctly rounded codes do."""


@dataclasses.dataclass(frozen=True)
class Place:
    """The scales around a function of one code, real value = scale * (code - zero point), and what was seen there.

    Attributes:
        x_scale: float32, rank 0, of the codes going in.
        x_zero_point: uint8 or int8, rank 0: also the type of these codes.
        y_scale: float32, rank 0, of the result.
        y_zero_point: uint8, rank 0.
        seen: Values that went in, [N], and how often, [N]; None where that is not known.
    """

    x_scale: Array
    x_zero_point: Array
    y_scale: Array
    y_zero_point: Array
    seen: tuple[Array, Array] | None = None

    def refusal(self, name: str, form: Callable[..., Array], exact: Callable[[Array], Array]) -> str:
        """Why ``form``, of the arguments of a kernel, does not hold here for ``exact``; empty where it does."""
        codes = np.arange(256).astype(np.uint8).view(self.x_zero_point.dtype)
        off = float(np.abs(self._codes(form, codes) - self._steps(exact, self._real(codes))).max())
        if not off <= STEPS:
            return f"{name} would be off by {off:.0f} steps of the result, whose range is small"
        if self.seen is not None:
            got, best = (
                self._kept(form, exact),
                self._kept(lambda x, *_: np.rint(self._steps(exact, self._real(x))), exact),
            )
            if got < ENOUGH and got < best - NEAR:
                return f"{name} would keep {got:.0f} dB of what goes through here, 256 exact results {best:.0f}"
        return ""

    def _kept(self, form: Callable[..., Array], exact: Callable[[Array], Array]) -> float:
        """Variance of what was seen over the squared error of ``form``, in dB."""
        assert self.seen is not None
        values, weights = self.seen
        share = weights / weights.sum()
        limits = np.iinfo(self.x_zero_point.dtype)
        codes = np.rint(values / float(self.x_scale)) + float(self.x_zero_point)
        x = np.clip(codes, limits.min, limits.max).astype(self.x_zero_point.dtype)
        target = exact(values) / float(self.y_scale) + float(self.y_zero_point)
        noise = share @ np.square(self._codes(form, x) - target)
        signal = share @ np.square(target - share @ target)
        return Error(max(float(noise), 1e-30), max(float(signal), 1e-30)).sqnr_db

    def _real(self, codes: Array) -> Array:
        values: Array = (codes.astype(np.float64) - float(self.x_zero_point)) * float(self.x_scale)
        return values

    def _steps(self, exact: Callable[[Array], Array], x: Array) -> Array:
        """The exact result in codes, cut as they are, but not rounded."""
        with np.errstate(over="ignore"):
            steps: Array = np.clip(exact(x) / float(self.y_scale) + float(self.y_zero_point), 0, 255)
        return steps

    def _codes(self, form: Callable[..., Array], x: Array) -> Array:
        codes: Array = form(x, self.x_scale, self.x_zero_point, self.y_scale, self.y_zero_point).astype(np.float64)
        return codes


def place(scales: Sequence[Array], seen: tuple[Array, Array] | None = None) -> Place:
    """The place with these scales and zero points, as a kernel takes them."""
    x_scale, x_zero_point, y_scale, y_zero_point = scales
    return Place(x_scale, x_zero_point, y_scale, y_zero_point, seen)


def refusal(kernel: Kernel, place: Place, exact: Callable[[Array], Array]) -> str:
    """Why ``kernel`` does not hold at ``place`` for ``exact``; empty where it does."""
    outside = kernel.valid.refusal(kernel.name, float(place.x_scale), float(place.y_scale))
    return outside or place.refusal(kernel.name, kernel.reference, exact)


def gate(slope: float) -> Callable[..., Array]:
    """x sigmoid(slope x) as ONNX Runtime's byte kernels give it: QLinearSigmoid in steps of 1/255, then QLinearMul."""

    def form(x: Array, x_scale: Array, x_zero_point: Array, y_scale: Array, y_zero_point: Array) -> Array:
        real = (x.astype(np.float64) - float(x_zero_point)) * float(x_scale)
        with np.errstate(over="ignore"):
            gates = np.rint(255 / (1 + np.exp(-slope * real)))
        codes: Array = np.clip(np.rint(real * gates / 255 / float(y_scale)) + float(y_zero_point), 0, 255)
        return codes

    return form
