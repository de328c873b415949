"""GPTQ: choose codes one row at a time, and let the rows still to come make up for the error so far.

Frantar et al., arXiv 2210.17323. Minimizes ``|X (W - Ŵ)|²`` for inputs X instead of ``|W - Ŵ|²``: with ``H = XᵀX`` and
``U`` the upper Cholesky factor of ``H⁻¹`` (``H⁻¹ = UᵀU``), row k is rounded, and its error over ``U[k, k]`` is taken
off the rows below in proportion to ``U[k, k+1:]``. Scales stay those of the search; only codes change.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from bct_onnx.quant.blocks import Blocks

Matrix = npt.NDArray[np.float32]

DAMPING = 0.3
"""Share of the mean diagonal added to the diagonal of H. The paper's 0.01 suits text of the task; statistics of
random tokens are trusted less (measured on a BERT encoder: 0.3 to 0.5 dB better at the output)."""

_ROWS = 64  # rows between two updates of everything below: turns rank-1 updates into matrix products


def gptq(weight: npt.NDArray[Any], blocks: Blocks, hessian: npt.NDArray[Any], *, damping: float = DAMPING) -> Blocks:
    """Codes that lose less at the output than rounding to the nearest.

    Args:
        weight: [K, N], the weight that `blocks` quantizes.
        blocks: Its nearest rounding; scales, multipliers and zero points are kept.
        hessian: [K, K], the sum (or mean) of x xᵀ over inputs x.
        damping: See `DAMPING`.

    Returns:
        The same blocks with other codes. Where the Hessian is unusable (not finite, all zero) the blocks as they were.
    """
    factor = _factor(hessian, damping)
    if factor is None:
        return blocks
    steps, height = blocks.steps(), blocks.scheme.block_shape[0]
    low, high, zero = _ranges(blocks)
    rest = np.array(weight, dtype=np.float32)
    codes = np.empty(blocks.shape, np.float32)
    for start in range(0, blocks.shape[0], _ROWS):
        stop = min(start + _ROWS, blocks.shape[0])
        errors = np.empty((stop - start, blocks.shape[1]), np.float32)
        for k in range(start, stop):
            step = steps[min(k // height, len(steps) - 1)]
            row = np.divide(rest[k], step, out=np.zeros_like(step), where=step != 0)
            codes[k] = np.clip(np.rint(row), low[k], high[k])
            errors[k - start] = (rest[k] - codes[k] * step) / factor[k, k]
            rest[k + 1 : stop] -= np.outer(factor[k, k + 1 : stop], errors[k - start])
        rest[stop:] -= factor[start:stop, stop:].T @ errors
    return dataclasses.replace(blocks, codes=(codes + zero).astype(blocks.codes.dtype))


def _factor(hessian: npt.NDArray[Any], damping: float) -> Matrix | None:
    """U with ``UᵀU = (H + damping)⁻¹``, or None."""
    full = np.array(hessian, dtype=np.float64)
    mean = float(np.diag(full).mean()) if np.isfinite(full).all() else 0.0
    if mean <= 0:
        return None
    full[np.diag_indices_from(full)] += damping * mean
    inverse = np.linalg.inv(full)
    lower: Matrix = np.linalg.cholesky((inverse + inverse.T) / 2).astype(np.float32)
    return lower.T


def _ranges(blocks: Blocks) -> tuple[Matrix, Matrix, Matrix]:
    """Least and largest ``code - zero point``, and the zero point, of every value, [K, N] (rows of one value
    broadcast)."""
    scheme = blocks.scheme
    zero = np.zeros((blocks.shape[0], 1), np.float32)
    if blocks.zero_points is not None:
        rows, columns = scheme.block_shape
        spread = np.repeat(np.repeat(blocks.zero_points, rows, axis=0), columns, axis=1)
        zero = spread[: blocks.shape[0], : blocks.shape[1]].astype(np.float32)
    return scheme.code_min - zero, scheme.code_max - zero, zero
