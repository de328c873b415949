"""Stored tensors as torch parameters: codes that are rounded on the way forward and not on the way back.

    W[k, n] = exp(log_scale[n]) * multiplier[k // block, n] * (round(latent[k, n]) - zero_point[k // block, n])

Latent codes start at the codes that are stored, so that the first step is taken from where the solver has ended; scales
are rounded to their stored type likewise. So what is trained is what is stored. Multipliers and zero points stay.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bct_onnx.quant import Blocks

Tensor = Any


class Learned:
    """One tensor of blocks [K, N], or some columns of it, whose codes and column scales are learned.

    Args:
        blocks: How it is stored.
        columns: The columns that are learned, [n]; all without it. Rows of a table are columns of its blocks.
    """

    def __init__(self, blocks: Blocks, columns: npt.NDArray[np.intp] | None = None) -> None:
        self._blocks = blocks
        self._columns = np.arange(blocks.shape[1]) if columns is None else columns
        scheme = blocks.scheme
        self._limits = float(scheme.code_min), float(scheme.code_max)
        self._half = blocks.scale.dtype == np.float16
        self._rows = scheme.block_shape[0]
        width = scheme.block_shape[1]
        groups = self._columns // width  # of columns that share a scale
        scales, self._place = np.unique(groups, return_inverse=True)
        self._scales = scales
        self.is_free = scheme.bits < 8 and scheme.scale != "shift"
        codes = torch.from_numpy(blocks.codes[:, self._columns].astype(np.float32))
        self.codes = torch.nn.Parameter(codes, requires_grad=self.is_free)
        scale = torch.from_numpy(blocks.scale[scales].astype(np.float32))
        self._sign = torch.sign(scale)
        self.log_scale = torch.nn.Parameter(torch.log(scale.abs().clamp_min(1e-30)), requires_grad=self.is_free)
        self._multipliers = self._expanded(blocks.multipliers, groups)
        self._zero_points = self._expanded(blocks.zero_points, groups)
        self._start = self.codes.detach().clone(), self.log_scale.detach().clone()

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
        moved = self.codes.detach().clamp(*self._limits).round() != self._start[0]
        return float(moved.float().mean())

    def stored(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """All codes [K, N] and scales, those that were not learned as they were."""
        codes, scale = self._blocks.codes.copy(), self._blocks.scale.copy()
        learned = self.codes.detach().clamp(*self._limits).round().numpy()
        codes[:, self._columns] = learned.astype(codes.dtype)
        scale[self._scales] = self._scale().detach().numpy().astype(scale.dtype)
        return codes, scale

    def _scale(self) -> Tensor:
        scale = self._sign * torch.exp(self.log_scale)
        if not self._half:
            return scale
        return scale + (scale.half().float() - scale).detach()

    def _expanded(self, each: npt.NDArray[Any] | None, groups: npt.NDArray[np.intp]) -> Tensor | None:
        """One number for each code from one for each block."""
        if each is None:
            return None
        rows = np.repeat(each[:, groups], self._rows, axis=0)[: self._blocks.shape[0]]
        return torch.from_numpy(rows.astype(np.float32))


def _rounded(latent: Tensor) -> Tensor:
    """Whole numbers whose derivative is that of what they are rounded from (the straight-through estimator)."""
    return latent + (torch.round(latent) - latent).detach()
