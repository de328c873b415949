"""GPTQ: choose codes one row at a time, and let the rows still to come make up for the error so far.

Frantar et al., arXiv 2210.17323. Minimizes the error at the output, ``tr(Eᵀ H E)`` with ``E = W - Ŵ`` and ``H = XᵀX``
of the inputs X, instead of ``|E|²``. With ``H = R Rᵀ``, R upper triangular, that is the sum of ``R[k, k]²`` times the
squares of ``E[k] + sum over j < k of E[j] R[j, k] / R[k, k]``: so row k, plus what the errors of the rows before it
leave to it, is rounded to the nearest. The paper says the same with ``R⁻¹``, the factor of ``H⁻¹``; without an inverse
float32 is enough, and a wide input takes a fifth of the time.

Two things differ from the paper. The multiplier of a block is chosen when its turn comes, for the values it then has:
the few that round these values best are tried with the compensation inside the block carried out, and the one that
adds least to that sum stays (static groups know only the weight as it was, which costs 0.5 to 2 dB at 2 bits and
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
from bct_onnx.quant.hessian import Factor, Matrix, Rows, damped
from bct_onnx.quant.residual import columns
from bct_onnx.quant.strips import slices
from bct_onnx.quant.tiles import quotient

DAMPING = 0.3
"""Share of the mean diagonal added to the diagonal of H, for statistics that are trusted little."""

LEAST_DAMPING = 0.03
"""The same for statistics of much text. Less gains nothing: 0.01 to 0.1 differ by 0.1 dB."""

SEARCHED = 128
"""Highest block whose multiplier is searched for: the work of trying one grows with the square of the height."""

FINALISTS = 2
"""Multipliers of a block that are tried with compensation, the best of them by nearest rounding."""

_ROWS = 64  # rows between two updates of everything below: turns rank-1 updates into matrix products
_STRIP_VALUES = 3 << 20  # values of the weight worked on at once: 3072 x 768 in one


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
    factor = Factor.of(full, _in_order(chunks))
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
    if random:
        return DAMPING
    return min(DAMPING, max(LEAST_DAMPING, DAMPING * width / max(rows, 1)))


def candidates(blocks: Blocks) -> Matrix | None:
    """Every multiplier that a block may have, rising, [M]; None where there are none."""
    scheme = blocks.scheme
    if blocks.multipliers is None:
        return None
    if scheme.scale == "shift":
        powers: Matrix = np.exp2(np.arange(scheme.multiplier_max.bit_length(), dtype=np.float32))
        return powers
    every: Matrix = np.arange(scheme.multiplier_min, scheme.multiplier_max + 1, dtype=np.float32)
    if scheme.multiplier_min < 0:
        return np.delete(every, -scheme.multiplier_min)
    return every


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
    parts: list[Blocks] = []
    for some in slices(n, step):
        parts.append(solve(np.array(weight[:, some], dtype=np.float32), columns(blocks, some.start, some.stop)))
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
        chunks += [(block, rows[some]) for some in slices(len(rows), size)]
    return sorted(chunks, key=lambda chunk: -float(diagonal[chunk[1]].mean()))


def _in_order(chunks: list[tuple[int, Rows]]) -> Rows:
    """All rows in order of processing."""
    return np.concatenate([rows for _, rows in chunks])


def _strip(
    values: Matrix, blocks: Blocks, factor: Factor, chunks: list[tuple[int, Rows]], tried: Matrix | None
) -> Blocks:
    size = unit(blocks)
    steps, column = blocks.steps() / size, _per_column(blocks) / size
    multipliers = None if blocks.multipliers is None else blocks.multipliers.copy()
    low, high, zero = ranges(blocks)
    values = values / size
    wanted = values[_in_order(chunks)]
    codes, width = np.empty(blocks.shape, np.float32), blocks.scheme.block_shape[1]
    start = 0
    for block, rows in chunks:
        stop = start + len(rows)
        local, limits = factor[start:stop], (low[rows], high[rows])
        exact, moved = values[rows], wanted[start:stop] - values[rows]
        if tried is not None and multipliers is not None:
            steps[block], multipliers[block], codes[rows] = _search(exact, moved, tried, column, local, limits, width)
        else:
            codes[rows], _ = _round(exact, moved, steps[block], local, limits)
        exact -= codes[rows] * steps[block]
        wanted[stop:] += factor.shares[start:stop, stop:].T @ exact
        start = stop
    return dataclasses.replace(blocks, codes=(codes + zero).astype(blocks.codes.dtype), multipliers=multipliers)


def _search(
    exact: Matrix,
    moved: Matrix,
    tried: Matrix,
    column: Matrix,
    factor: Factor,
    limits: tuple[Matrix, Matrix],
    width: int,
) -> tuple[Matrix, Matrix, Matrix]:
    """The best step of each column [N] and multiplier of each block of columns, for the rows of one line of blocks;
    the codes that `_round` gives for them, [L, N].

    Rounding to the nearest tells cheaply which few multipliers are worth the compensation. These are compensated side
    by side, as columns of their own.
    """
    inverse = quotient(np.float32(1), column)
    rest = exact + moved
    cost = np.stack([_nearest(rest, m * column, inverse / m, factor.weights, limits) for m in tried])
    ranked = tried[np.argsort(pooled(cost, width), axis=0, kind="stable")[:FINALISTS]]
    steps = np.repeat(ranked, width, axis=1)[:, : rest.shape[1]] * column
    count = len(steps)
    low, high = (side if side.shape[1] == 1 else np.tile(side, (1, count)) for side in limits)
    each = np.tile(exact, (1, count)), np.tile(moved, (1, count))
    codes, squares = _round(*each, steps.reshape(-1), factor, (low, high))
    best = pooled(squares.reshape(count, -1), width).argmin(axis=0)[None]
    multiplier: Matrix = np.take_along_axis(ranked, best, axis=0)[0]
    of_column = np.repeat(best[0], width)[: rest.shape[1]][None, None]
    chosen = np.take_along_axis(codes.reshape(len(rest), count, -1), of_column, axis=1)[:, 0]
    return np.repeat(multiplier, width)[: rest.shape[1]] * column, multiplier, chosen


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


def _round(
    exact: Matrix, moved: Matrix, step: Matrix, factor: Factor, limits: tuple[Matrix, Matrix]
) -> tuple[Matrix, Matrix]:
    """Round rows one after the other, adding to what has ``moved`` them; the codes [L, N], and what they add to the
    loss [N]."""
    codes, lost = np.empty_like(exact), np.empty_like(exact)
    inverse, left = quotient(np.float32(1), step), np.empty_like(exact)
    for k in range(len(exact)):
        wanted = np.add(exact[k], moved[k], out=moved[k])
        code = np.rint(np.multiply(wanted, inverse, out=codes[k]), out=codes[k])
        np.minimum(np.maximum(code, limits[0][k], out=code), limits[1][k], out=code)
        value = code * step
        np.subtract(wanted, value, out=lost[k])
        error = np.subtract(exact[k], value, out=value)
        moved[k + 1 :] += np.multiply(factor.shares[k, k + 1 :, None], error, out=left[k + 1 :])
    lost *= factor.weights
    return codes, np.einsum("kn,kn->n", lost, lost)


def _per_column(blocks: Blocks) -> Matrix:
    """Column scales [N] of an integer scheme; ones elsewhere, where they are not used."""
    if blocks.scale.ndim > 1:
        return np.ones(blocks.shape[1], np.float32)
    return np.repeat(blocks.scale.astype(np.float32), blocks.scheme.block_shape[1])[: blocks.shape[1]]


def pooled(cost: Matrix, width: int) -> Matrix:
    """Sums over columns of blocks, along the last axis."""
    if width == 1:
        return cost
    return np.add.reduceat(cost, np.arange(0, cost.shape[-1], width), axis=-1)
