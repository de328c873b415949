"""Refine a quantized weight: change one code, multiplier or scale at a time, always to where the output error is least.

The error at the output, ``tr(Eᵀ H E)`` with ``E = W - Ŵ`` and ``H = XᵀX`` of the inputs X, is a parabola in each single
unknown, so each has a best value in closed form, given all others:

- code (QuantEase, Behdin et al., arXiv 2309.01885): ``q[k] + (H E)[k] / (H[k, k] step)``, rounded and clipped;
- multiplier of a block with rows b: ``m + (tᵀ H E) / (tᵀ H t)`` with ``t`` the block's ``scale * q[b]``, rounded to the
  nearest that is allowed;
- column scale: ``(tᵀ H w) / (tᵀ H t)`` with ``t = multiplier * q``, in 11 bits, once and first of all.

A parabola is lowest at the allowed value nearest to its minimum, so no step makes the error larger. GPTQ is a good
start: it decides early rows without knowing what later ones will be; this goes back to them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from bct_onnx.quant.blocks import Blocks, stored
from bct_onnx.quant.gptq import DAMPING, candidates, in_strips, pooled, ranges, unit
from bct_onnx.quant.hessian import Matrix, damped
from bct_onnx.quant.search import round_11_bits
from bct_onnx.quant.strips import slices
from bct_onnx.quant.tiles import quotient

SWEEPS = 2
"""Times every unknown is gone through; the first gains most (0.5 to 1 dB at 2 bits). At 8 bits all gain nothing. A
third gains 0.06 dB of a weight at 4 bits, scales anew at the end 0.004 dB; nothing of it shows in the outputs."""

_ROWS = 64  # rows whose gradient is kept up to date by rank-1 updates


def refine(
    weight: npt.NDArray[Any],
    blocks: Blocks,
    hessian: npt.NDArray[Any],
    *,
    damping: float = DAMPING,
    sweeps: int = SWEEPS,
) -> Blocks:
    """Codes, multipliers and column scales of less error at the output, never of more.

    Args:
        weight: [K, N], the weight that `blocks` quantizes.
        blocks: Any quantization of it, best that of `bct_onnx.quant.gptq.gptq`. Zero points, float scales per block
            and the powers of two of a shift scheme's columns are kept.
        hessian: [K, K], the sum (or mean) of x xᵀ over inputs x.
        damping: Share of the mean diagonal of H added to its diagonal.
        sweeps: See `SWEEPS`.

    Returns:
        The refined blocks. Where the Hessian is unusable (not finite, all zero) the blocks as they were.
    """
    full = damped(hessian, damping)
    if full is None:
        return blocks
    return _with_scale(in_strips(weight, blocks, lambda values, part: _Strip(values, part, full).solved(sweeps)))


class _Strip:
    """Some columns of a weight, in units of their largest step.

    Attributes:
        values: The weight, [K, n].
        codes: Codes less their zero points, [K, n].
        steps: The scale of each block and column, [R, n].
        error: ``values - codes * steps``, kept up to date, [K, n].
    """

    def __init__(self, values: Matrix, blocks: Blocks, hessian: Matrix) -> None:
        self.blocks, self.hessian = blocks, hessian
        self.unit = unit(blocks)
        self.values, self.steps = values / self.unit, blocks.steps() / self.unit
        self.low, self.high, self.zero = ranges(blocks)
        self.codes = blocks.codes.astype(np.float32) - self.zero
        height = blocks.scheme.block_shape[0] if len(self.steps) > 1 else len(values)
        self.rows = list(slices(len(values), height))
        self.error = self.values - self._approximation()
        self.allowed = candidates(blocks)

    def solved(self, sweeps: int) -> Blocks:
        """The blocks after so many sweeps."""
        spread = _spread(self.blocks.scale.astype(np.float32), self.blocks)
        scale = spread / self.unit if self.blocks.scheme.is_integer else None
        fits = scale is not None and self.blocks.scheme.scale != "shift"
        if scale is not None and fits:
            scale = self._rescale(scale)
        for _ in range(sweeps):
            for block, rows in enumerate(self.rows):
                parts = list(slices(rows.stop, _ROWS, rows.start))
                gradients = [self._recode(part, self.steps[block]) for part in parts]
                if self.allowed is not None and scale is not None:
                    behind = gradients[0] if len(parts) == 1 else self.hessian[rows] @ self.error
                    self._multiply(block, rows, scale, self.allowed, behind)
        return self._stored(scale)

    def _recode(self, rows: slice, step: Matrix) -> Matrix:
        """Give each of some rows of one block its best code, one after the other; H times the error for them then."""
        gradient = self.hessian[rows] @ self.error
        before, ahead = gradient.copy(), np.empty_like(gradient)
        local = np.ascontiguousarray(self.hessian[rows, rows])
        inverse = quotient(np.float32(1), step)
        changes = np.empty_like(gradient)
        for j, k in enumerate(range(rows.start, rows.stop)):
            wanted = np.multiply(gradient[j], inverse / local[j, j], out=changes[j])
            wanted += self.codes[k]
            np.rint(wanted, out=wanted)
            code = np.minimum(np.maximum(wanted, self.low[k], out=wanted), self.high[k])
            change = np.multiply(self.codes[k] - code, step, out=changes[j])
            self.codes[k] = code
            gradient[j + 1 :] += np.multiply(local[j + 1 :, j, None], change, out=ahead[j + 1 :])
        self.error[rows] += changes
        before += local @ changes
        return before

    def _multiply(self, block: int, rows: slice, scale: Matrix, allowed: Matrix, behind: Matrix) -> None:
        """The best multiplier of each block in one line of blocks, given H times the error for its rows."""
        width = self.blocks.scheme.block_shape[1]
        moved = self.codes[rows] * scale
        slope = np.einsum("kn,kn->n", moved, behind)
        bend = np.einsum("kn,kn->n", moved, self.hessian[rows, rows] @ moved)
        shift = _spread(quotient(pooled(slope, width), pooled(bend, width)), self.blocks)
        before = quotient(self.steps[block], scale)
        after = allowed[np.searchsorted((allowed[1:] + allowed[:-1]) / 2, before + shift)]
        after = np.where(scale != 0, after, before)
        self.error[rows] -= moved * (after - before)
        self.steps[block] = after * scale

    def _rescale(self, scale: Matrix) -> Matrix:
        """The best scale of each column (of blocks); the steps and the error follow."""
        width = self.blocks.scheme.block_shape[1]
        product = self.codes.copy()
        for rows, step in zip(self.rows, self.steps, strict=True):
            product[rows] *= quotient(step, scale)
        behind = self.hessian @ product
        cross = pooled(np.einsum("kn,kn->n", behind, self.values), width)
        power = pooled(np.einsum("kn,kn->n", behind, product), width)
        best = round_11_bits(_spread(quotient(cross, power), self.blocks) * self.unit) / self.unit
        better = np.where(best > 0, best, scale)
        self.steps *= quotient(better, scale)
        self.error = self.values - self._approximation()
        return better

    def _approximation(self) -> Matrix:
        approximation = self.codes.copy()
        for rows, step in zip(self.rows, self.steps, strict=True):
            approximation[rows] *= step
        return approximation

    def _stored(self, scale: Matrix | None) -> Blocks:
        codes = (self.codes + self.zero).astype(self.blocks.codes.dtype)
        if scale is None:
            return dataclasses.replace(self.blocks, codes=codes)
        multipliers, width = self.blocks.multipliers, self.blocks.scheme.block_shape[1]
        if multipliers is not None:
            found = np.rint(quotient(self.steps, np.broadcast_to(scale, self.steps.shape)))[:, ::width]
            multipliers = np.where(found == 0, multipliers, found).astype(multipliers.dtype)
        return dataclasses.replace(
            self.blocks, codes=codes, multipliers=multipliers, scale=(scale * self.unit)[::width].astype(np.float64)
        )


def _spread(values: Matrix, blocks: Blocks) -> Matrix:
    """Values per column from values per column of blocks."""
    width = blocks.scheme.block_shape[1]
    if width == 1:
        return values
    return np.repeat(values, width)[: blocks.shape[1]]


def _with_scale(blocks: Blocks) -> Blocks:
    """Scales of columns in the type they are stored in."""
    if not blocks.scheme.is_integer:
        return blocks
    return dataclasses.replace(blocks, scale=stored(blocks.scale.astype(np.float64), blocks.scheme))
