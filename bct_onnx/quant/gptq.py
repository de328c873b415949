"""GPTQ: choose codes one row at a time, and let the rows still to come make up for the error so far.

Frantar et al., arXiv 2210.17323. Minimizes the error at the output, ``tr((W - Ŵ)ᵀ H (W - Ŵ))`` with ``H = XᵀX`` of the
inputs X, instead of ``|W - Ŵ|²``: with ``U`` the upper Cholesky factor of ``H⁻¹`` (``H⁻¹ = UᵀU``), row k is rounded,
and its error over ``U[k, k]`` is taken off the rows below in proportion to ``U[k, k+1:]``.

Two things differ from the paper. The multiplier of a block is chosen when its turn comes, for the values it then has:
the few that round these values best are tried with the compensation inside the block carried out, and the one of least
``sum error² / U[k, k]²`` stays (static groups know only the weight as it was, which costs 0.5 to 2 dB at 2 bits and
0.3 dB at 4). And blocks are taken by falling input energy, as are rows within a block: "act-order" that leaves blocks
where they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from bct_onnx.quant.blocks import Blocks
from bct_onnx.quant.residual import columns
from bct_onnx.quant.tiles import quotient

Matrix = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]

DAMPING = 0.3
"""Share of the mean diagonal added to the diagonal of H, for statistics that are trusted little."""

LEAST_DAMPING = 0.03
"""The same for statistics of much text. Less gains nothing: 0.01 to 0.1 differ by 0.1 dB."""

SEARCHED = 128
"""Highest block whose multiplier is searched for: the work of trying one grows with the square of the height."""

FINALISTS = 3
"""Multipliers of a block that are tried with compensation, the best of them by nearest rounding."""

_ROWS = 64  # rows between two updates of everything below: turns rank-1 updates into matrix products
_STRIP_VALUES = 1 << 21  # values of the weight worked on at once
_DIRECT = 128  # sides of a triangular matrix that is inverted as any other


def gptq(
    weight: npt.NDArray[Any],
    blocks: Blocks,
    hessian: npt.NDArray[Any],
    *,
    damping: float = DAMPING,
    search: bool = True,
) -> Blocks:
    """Codes and multipliers that lose less at the output than rounding to the nearest.

    Args:
        weight: [K, N], the weight that `blocks` quantizes.
        blocks: Its nearest rounding; column scales, float scales and zero points are kept.
        hessian: [K, K], the sum (or mean) of x xᵀ over inputs x.
        damping: See `DAMPING`.
        search: Choose the multipliers anew, in blocks of up to `SEARCHED` rows; False keeps them.

    Returns:
        The same blocks with other codes and multipliers. Where the Hessian is unusable (not finite, all zero) the
        blocks as they were.
    """
    full = damped(hessian, damping)
    if full is None:
        return blocks
    chunks = _chunks(np.diag(full), blocks)
    order = np.concatenate([rows for _, rows in chunks])
    factor = _factor_of_inverse(full[np.ix_(order, order)])
    del full
    tried = candidates(blocks) if search and blocks.scheme.block_shape[0] <= SEARCHED else None
    return in_strips(weight, blocks, lambda values, part: _strip(values, part, factor, chunks, tried))


def damping_for(width: int, rows: int, *, random: bool) -> float:
    """The damping that suits the statistics of ``rows`` inputs of ``width`` channels each.

    The error of H is about ``width / rows`` of its size, so with little text the damping grows with that; random tokens
    show less than text, however many they are (measured: 0.3 to 1 dB at the output between the best and the other end).

    >>> damping_for(384, 8192, random=False), damping_for(1536, 3072, random=False), damping_for(384, 8192, random=True)
    (0.03, 0.15, 0.3)
    """
    return DAMPING if random else min(DAMPING, max(LEAST_DAMPING, DAMPING * width / max(rows, 1)))


def damped(hessian: npt.NDArray[Any], damping: float) -> npt.NDArray[np.float64] | None:
    """The Hessian over its mean diagonal, `damping` added to the diagonal; None if it is not finite or all zero."""
    full: npt.NDArray[np.float64] = np.array(hessian, dtype=np.float64)
    mean = float(np.diag(full).mean()) if np.isfinite(full).all() else 0.0
    if mean <= 0:
        return None
    full /= mean
    full[np.diag_indices_from(full)] += damping
    return full


def _factor_of_inverse(hessian: npt.NDArray[np.float64]) -> Matrix:
    """The upper triangular U with ``H⁻¹ = UᵀU``, [K, K], without the inverse: an eighth of the work.

    With the order of the rows reversed, Cholesky's factor gives ``H = R Rᵀ`` with R upper triangular, so that U is the
    inverse of R, which is triangular too.
    """
    reverse = np.linalg.cholesky(hessian[::-1, ::-1])
    return _inverse_of_upper(np.ascontiguousarray(reverse[::-1, ::-1], dtype=np.float32))


def _inverse_of_upper(upper: Matrix) -> Matrix:
    """The inverse of an upper triangular matrix, by halves: products of matrices do nearly all of it."""
    size = len(upper)
    if size <= _DIRECT:
        small: Matrix = np.triu(np.linalg.inv(upper))
        return small
    half = size // 2
    inverse = np.zeros_like(upper)
    inverse[:half, :half] = left = _inverse_of_upper(upper[:half, :half])
    inverse[half:, half:] = right = _inverse_of_upper(upper[half:, half:])
    inverse[:half, half:] = -left @ (upper[:half, half:] @ right)
    return inverse


def candidates(blocks: Blocks) -> Matrix | None:
    """Every multiplier that a block may have, rising, [M]; None where there are none."""
    scheme = blocks.scheme
    if blocks.multipliers is None:
        return None
    if scheme.scale == "shift":
        powers: Matrix = np.exp2(np.arange(scheme.multiplier_max.bit_length(), dtype=np.float32))
        return powers
    every: Matrix = np.arange(scheme.multiplier_min, scheme.multiplier_max + 1, dtype=np.float32)
    return np.delete(every, -scheme.multiplier_min) if scheme.multiplier_min < 0 else every


def ranges(blocks: Blocks) -> tuple[Matrix, Matrix, Matrix]:
    """Least and largest ``code - zero point``, and the zero point, of every value, [K, N] (rows of one value
    broadcast)."""
    scheme = blocks.scheme
    zero = np.zeros((blocks.shape[0], 1), np.float32)
    if blocks.zero_points is not None:
        rows, width = scheme.block_shape
        spread = np.repeat(np.repeat(blocks.zero_points, rows, axis=0), width, axis=1)
        zero = spread[: blocks.shape[0], : blocks.shape[1]].astype(np.float32)
    return scheme.code_min - zero, scheme.code_max - zero, zero


def in_strips(weight: npt.NDArray[Any], blocks: Blocks, solve: Callable[[Matrix, Blocks], Blocks]) -> Blocks:
    """Apply ``solve`` to strips of columns, which never influence each other, and put the results together."""
    k, n = blocks.shape
    width = blocks.scheme.block_shape[1]
    step = max(1, _STRIP_VALUES // (k * width)) * width
    parts = [
        solve(np.array(weight[:, at : at + step], dtype=np.float32), columns(blocks, at, min(at + step, n)))
        for at in range(0, n, step)
    ]
    multipliers = [part.multipliers for part in parts if part.multipliers is not None]
    return dataclasses.replace(
        blocks,
        codes=np.concatenate([part.codes for part in parts], axis=1),
        multipliers=np.concatenate(multipliers, axis=1) if multipliers else None,
        scale=np.concatenate([part.scale for part in parts], axis=-1),
    )


def unit(blocks: Blocks) -> Matrix:
    """The power of two below the largest step of each column, [N]: steps over it are about 1, and lose no bit."""
    exponent = np.clip(np.frexp(np.abs(blocks.steps()).max(axis=0))[1] - 1, -126, 127)
    power: Matrix = np.ldexp(np.ones(blocks.shape[1], np.float32), exponent)
    return power


def _chunks(diagonal: npt.NDArray[np.float64], blocks: Blocks) -> list[tuple[int, Rows]]:
    """Rows to be processed together, with the row of their block in `Blocks.steps`, in order of processing."""
    k, lines = blocks.shape[0], len(blocks.steps())
    height = blocks.scheme.block_shape[0] if lines > 1 else k
    chunks = []
    for block in range(lines):
        rows = np.arange(block * height, min(k, (block + 1) * height))
        rows = rows[np.argsort(-diagonal[rows], kind="stable")]
        size = height if height <= SEARCHED else _ROWS
        chunks += [(block, rows[at : at + size]) for at in range(0, len(rows), size)]
    return sorted(chunks, key=lambda chunk: -float(diagonal[chunk[1]].mean()))


def _strip(
    values: Matrix, blocks: Blocks, factor: Matrix, chunks: list[tuple[int, Rows]], tried: Matrix | None
) -> Blocks:
    size = unit(blocks)
    steps, column = blocks.steps() / size, _per_column(blocks) / size
    multipliers = None if blocks.multipliers is None else blocks.multipliers.copy()
    low, high, zero = ranges(blocks)
    rest = values[np.concatenate([rows for _, rows in chunks])] / size
    codes, width = np.empty(blocks.shape, np.float32), blocks.scheme.block_shape[1]
    start = 0
    for block, rows in chunks:
        stop = start + len(rows)
        local, limits = np.ascontiguousarray(factor[start:stop, start:stop]), (low[rows], high[rows])
        if tried is not None and multipliers is not None:
            rounded = _search(rest[start:stop], tried, column, local, limits, width)
            steps[block], multipliers[block], codes[rows], errors = rounded
        else:
            codes[rows], errors, _ = _round(rest[start:stop], steps[block], local, limits)
        rest[stop:] -= factor[start:stop, stop:].T @ errors
        start = stop
    return dataclasses.replace(blocks, codes=(codes + zero).astype(blocks.codes.dtype), multipliers=multipliers)


def _search(
    rest: Matrix, tried: Matrix, column: Matrix, factor: Matrix, limits: tuple[Matrix, Matrix], width: int
) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    """The best step of each column [N] and multiplier of each block of columns, for the rows of one line of blocks;
    the codes and errors that `_round` gives for them, [L, N].

    Rounding to the nearest tells cheaply which few multipliers are worth the compensation. These are compensated side
    by side, as columns of their own.
    """
    weight: Matrix = np.reciprocal(np.diag(factor))[:, None]
    inverse = quotient(np.float32(1), column)
    cost = np.stack([_nearest(rest, m * column, inverse / m, weight, limits) for m in tried])
    ranked = tried[np.argsort(pooled(cost, width), axis=0, kind="stable")[:FINALISTS]]
    steps = np.repeat(ranked, width, axis=1)[:, : rest.shape[1]] * column
    count = len(steps)
    sides = tuple(side if side.shape[1] == 1 else np.tile(side, (1, count)) for side in limits)
    shape = (len(rest), count, rest.shape[1])
    codes, errors, squares = _round(np.tile(rest, (1, count)), steps.reshape(-1), factor, (sides[0], sides[1]))
    best = pooled(squares.reshape(count, -1), width).argmin(axis=0)[None]
    multiplier: Matrix = np.take_along_axis(ranked, best, axis=0)[0]
    of_column = np.repeat(best[0], width)[: rest.shape[1]][None, None]
    chosen = [np.take_along_axis(each.reshape(shape), of_column, axis=1)[:, 0] for each in (codes, errors)]
    return np.repeat(multiplier, width)[: rest.shape[1]] * column, multiplier, chosen[0], chosen[1]


def _nearest(rest: Matrix, step: Matrix, inverse: Matrix, weight: Matrix, limits: tuple[Matrix, Matrix]) -> Matrix:
    """Sum over rows of the squared errors of nearest rounding times squared weights, [N]."""
    codes = rest * inverse
    np.rint(codes, out=codes)
    np.maximum(codes, limits[0], out=codes)
    np.minimum(codes, limits[1], out=codes)
    codes *= step
    codes -= rest
    codes *= weight
    total: Matrix = np.einsum("kn,kn->n", codes, codes)
    return total


def _round(rest: Matrix, step: Matrix, factor: Matrix, limits: tuple[Matrix, Matrix]) -> tuple[Matrix, Matrix, Matrix]:
    """Round rows one after the other, changing ``rest``; codes and errors over ``U[k, k]``, [L, N], and the sum of
    their squares [N]."""
    codes, errors = np.empty_like(rest), np.empty_like(rest)
    inverse, moved = quotient(np.float32(1), step), np.empty_like(rest)
    for k in range(len(rest)):
        code = np.rint(np.multiply(rest[k], inverse, out=codes[k]), out=codes[k])
        np.minimum(np.maximum(code, limits[0][k], out=code), limits[1][k], out=code)
        error = np.subtract(rest[k], np.multiply(code, step, out=errors[k]), out=errors[k])
        error *= 1 / factor[k, k]
        rest[k + 1 :] -= np.multiply(factor[k, k + 1 :, None], error, out=moved[k + 1 :])
    return codes, errors, np.einsum("kn,kn->n", errors, errors)


def _per_column(blocks: Blocks) -> Matrix:
    """Column scales [N] of an integer scheme; ones elsewhere, where they are not used."""
    if blocks.scale.ndim > 1:
        return np.ones(blocks.shape[1], np.float32)
    return np.repeat(blocks.scale.astype(np.float32), blocks.scheme.block_shape[1])[: blocks.shape[1]]


def pooled(cost: Matrix, width: int) -> Matrix:
    """Sums over columns of blocks, along the last axis."""
    return cost if width == 1 else np.add.reduceat(cost, np.arange(0, cost.shape[-1], width), axis=-1)
