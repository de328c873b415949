"""Stored tensors as torch parameters: codes that are rounded on the way forward and not on the way back.

    W[k, n] = exp(log_scale[n]) * multiplier[k // block, n] * (round(latent[k, n]) - zero_point[k // block, n])

Latent codes start where they round to the codes that are stored, so that the first step is taken from where the solver
has ended; scales are rounded to their stored type likewise. So what is trained is what is stored. Multipliers and zero
points stay.

Within what rounds to the same code latents start anywhere. If all started in the middle, no code would change for fifty
steps of 0.01, and then all at once, which is worse than any rounding: stories260k in 2 bits goes from a held-back error
of 0.80 to 0.73 in 80 steps on random tokens from the middle, and to 0.33 from anywhere.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bct_onnx.quant import Blocks, mixed

SPREAD = 0.45
"""How far from a code its latent may start, in steps of rounding."""

Tensor = Any

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Numbers:
    """What some columns of a stored tensor [K, N] are made of.

    Attributes:
        codes: Whole numbers [K, N].
        scale: [N], or one for several columns beside each other.
        low: The smallest code, of all columns or of each.
        high: The largest.
        multipliers: [K, N] or what broadcasts to it; None for ones.
        zero_points: The same; None for zeros.
        width: Columns that share a scale.
        scales: Whether scales are learned; powers of two are not.
    """

    codes: Array
    scale: Array
    low: Array
    high: Array
    multipliers: Array | None = None
    zero_points: Array | None = None
    width: int = 1
    scales: bool = True

    @classmethod
    def of_blocks(cls, blocks: Blocks) -> Numbers:
        """Of a weight in blocks, or of a table, whose rows are columns here."""
        scheme, (k, n) = blocks.scheme, blocks.shape
        rows, width = scheme.block_shape

        def expanded(each: Array | None) -> Array | None:
            if each is None:
                return None
            return np.repeat(np.repeat(each, rows, axis=0)[:k], width, axis=1)[:, :n]

        low, high = np.asarray(scheme.code_min), np.asarray(scheme.code_max)
        parts = expanded(blocks.multipliers), expanded(blocks.zero_points)
        return cls(blocks.codes, blocks.scale, low, high, *parts, width, scheme.scale != "shift")

    @classmethod
    def of_rows(cls, rows: mixed.MixedRows, length: int) -> Numbers:
        """Of a table whose rows have widths of their own: a row is a column."""
        high = (1 << rows.widths.astype(np.int64)) - 1
        middle = np.where(rows.widths == 8, mixed.middle(8), high / 2)
        return cls(mixed.unpacked(rows, length).T, rows.scale, np.zeros_like(high), high, zero_points=middle[None])

    def columns(self, chosen: npt.NDArray[np.intp]) -> Numbers:
        """Some columns, each of which has a scale of its own."""
        assert self.width == 1

        def some(each: Array | None) -> Any:
            if each is None or each.ndim == 0:
                return each
            return each[..., chosen]

        return dataclasses.replace(
            self,
            codes=self.codes[:, chosen],
            scale=self.scale[chosen],
            low=some(self.low),
            high=some(self.high),
            multipliers=some(self.multipliers),
            zero_points=some(self.zero_points),
        )


class Learned:
    """A stored tensor, or some columns of it, whose codes and scales are learned.

    Args:
        numbers: What it is made of.
        columns: The columns that are learned; all without it. Rows of a table are columns.
    """

    def __init__(self, numbers: Numbers, columns: npt.NDArray[np.intp] | None = None) -> None:
        self._whole, self._columns = numbers, slice(None) if columns is None else columns
        part = numbers if columns is None else numbers.columns(columns)
        self._limits = _tensor(part.low), _tensor(part.high)
        self._multipliers, self._zero_points = _tensor(part.multipliers), _tensor(part.zero_points)
        self._place = torch.arange(part.codes.shape[1]) // part.width
        self._half = part.scale.dtype == np.float16
        self._start = _tensor(part.codes)
        scale = _tensor(part.scale)
        self._sign = torch.sign(scale)
        self.codes = torch.nn.Parameter(_spread(self._start, *self._limits))
        self.log_scale = torch.nn.Parameter(torch.log(scale.abs().clamp_min(1e-30)), requires_grad=part.scales)

    def weight(self) -> Tensor:
        """The columns as they will be read, float32 [K, n]."""
        codes = _rounded(self.codes.clamp(*self._limits))
        if self._zero_points is not None:
            codes = codes - self._zero_points
        if self._multipliers is not None:
            codes = codes * self._multipliers
        return codes * self._scale()[self._place]

    def changed(self) -> float:
        """Share of the codes that are others than at the start."""
        return float((self._codes() != self._start).float().mean())

    def stored(self) -> tuple[Array, Array]:
        """All codes [K, N] and scales, those that were not learned as they were."""
        codes, scale = self._whole.codes.copy(), self._whole.scale.copy()
        codes[:, self._columns] = self._codes().numpy().astype(codes.dtype)
        scale[self._columns] = self._scale().detach().numpy().astype(scale.dtype)
        return codes, scale

    def _codes(self) -> Tensor:
        return self.codes.detach().clamp(*self._limits).round()

    def _scale(self) -> Tensor:
        scale = self._sign * torch.exp(self.log_scale)
        if not self._half:
            return scale
        return scale + (scale.half().float() - scale).detach()


def _spread(codes: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Latents that round to whole numbers, spread evenly around them; always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.clamp(codes + SPREAD * (2 * torch.rand(codes.shape, generator=generator) - 1), low, high)


def _rounded(latent: Tensor) -> Tensor:
    """Whole numbers whose derivative is that of what they are rounded from (the straight-through estimator)."""
    return latent + (torch.round(latent) - latent).detach()


def _tensor(array: Array | None) -> Tensor:
    if array is None:
        return None
    return torch.from_numpy(np.asarray(array, np.float32).copy())
