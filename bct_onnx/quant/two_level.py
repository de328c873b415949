"""Column scales and whole multipliers of least squared error: what nearly every weight is stored with.

All values are touched as few times as possible, which is what the time of a rewrite depends on:

1. The extremes of each block, and the noise of rounding, ``s²/12`` a value, tell roughly what every block loses at any
   step ``s``. That ranks many column scales without a look at the values (`_ranked`), and where blocks are many without
   one at each of them: those of about the same size lose about the same, and are counted.
2. For the few best of them each block is rounded with the few multipliers that can be best (`_tried`). The sums of
   ``code * value`` and ``code²`` give the error and, at once, the column scale of least squares for these codes: so
   each scale that is tried stands for all those around it.
"""

from __future__ import annotations

import dataclasses
import functools
from math import prod

import numpy as np
import numpy.typing as npt

from bct_onnx.quant.scheme import Scheme
from bct_onnx.quant.search import better, round_11_bits
from bct_onnx.quant.strips import Float
from bct_onnx.quant.tiles import Tiles, quotient

COLUMN = np.geomspace(0.28, 1.08, 20).astype(np.float32)
"""Column scales ranked, times the least at which no multiplier is out of range and nothing is clipped."""

FEW, MANY, LOTS = 16, 47, 96
"""Blocks in a column: among few, one by chance counts; over many chance evens out, and less need be tried."""

_RANKED_VALUES = 1 << 13  # blocks ranked at once: what is computed for them stays in the cache
_SIZES = 32  # of blocks told apart where they are counted, to a step of the column scale


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much is tried on all values: more gains 0.02 dB or less on weights of trained models, and up to 0.16 dB at 2
    bits on values with very heavy tails (Student's t with 3 degrees of freedom).

    Attributes:
        scales: Column scales.
        multipliers: Multipliers of a block for each of them.
        largest: The largest of those, as a share of the least that clips nothing; with few bits clipping pays.
    """

    scales: int
    multipliers: int
    largest: float


_EFFORT = {
    6: Effort(6, 2, 1.0),
    5: Effort(6, 3, 1.0),
    4: Effort(6, 3, 1.0),
    3: Effort(6, 3, 0.9),
    2: Effort(6, 5, 0.75),
}
_USUAL = Effort(4, 2, 0.95)  # for 4 bits, no zero points, blocks as most are
_UNLIKE = Effort(6, 5, 0.95)  # where values are of unlike importance, extremes say little


def two_level(tiles: Tiles, scheme: Scheme) -> tuple[Float, Float]:
    """Column scales [C] in 11 bits, and multipliers [R, C] from `multiplier_min` to `multiplier_max`."""
    no_clip = tiles.no_clip(mirror=scheme.mirrors)
    if scheme.search == "max":
        return _clipping_nothing(no_clip, scheme)
    effort = _effort(tiles, scheme)
    found = _tried(tiles, scheme, no_clip, _ranked(tiles, scheme, no_clip, effort), effort)
    if len(no_clip) > FEW:
        return found
    return better(tiles, _clipping_nothing(no_clip, scheme), found)


def _effort(tiles: Tiles, scheme: Scheme) -> Effort:
    effort = _EFFORT[scheme.bits] if tiles.importance is None else _UNLIKE
    if effort is _EFFORT[4] and scheme.symmetric and 32 <= prod(scheme.block_shape) <= 64:
        effort = _USUAL
    quarters = 4 - sum(len(tiles.most) > count for count in (FEW, MANY, LOTS))
    return dataclasses.replace(effort, scales=-(-effort.scales * quarters // 4))


def _clipping_nothing(no_clip: Float, scheme: Scheme) -> tuple[Float, Float]:
    """The least column scales and multipliers that clip nothing."""
    scale = round_11_bits(_anchor(no_clip, scheme), up=True)
    wanted = quotient(no_clip, scale)
    return scale, _in_range(scheme, np.ceil(np.abs(wanted)), wanted)


def _ranked(tiles: Tiles, scheme: Scheme, no_clip: Float, effort: Effort) -> list[Float]:
    """The most promising column scales, [C] each, the best first."""
    anchor = _anchor(no_clip, scheme)
    weight = None if tiles.importance is None else tiles.importance.mean(axis=1)
    losses = (_summed if len(no_clip) <= LOTS else _counted)(scheme, no_clip, anchor, weight)
    best = np.argsort(losses, axis=0, kind="stable")[: effort.scales]
    return list(np.take_along_axis(anchor * COLUMN[:, None], best, axis=0))


def _summed(scheme: Scheme, no_clip: Float, anchor: Float, weight: Float | None) -> Float:
    """What columns lose at each of their scales, [S, C], for blocks of some weight [R, 1]."""
    scales = anchor * COLUMN[:, None]
    inverses, losses = quotient(np.float32(1), scales), np.empty_like(scales)
    width = max(2, _RANKED_VALUES // len(no_clip))
    for start in range(0, no_clip.shape[1], width):
        at = np.s_[:, start : start + width]
        size, end = np.abs(no_clip[at]), _largest(no_clip[at], scheme)
        step, clipped = np.empty_like(size), np.empty_like(size)
        for scale, inverse, out in zip(scales[at], inverses[at], losses[at], strict=True):
            loss = _loss(scheme, size, end, (scale, inverse), (step, clipped))
            if weight is not None:
                loss *= weight
            np.add.reduce(loss, axis=0, out=out)
    return losses


def _counted(scheme: Scheme, no_clip: Float, anchor: Float, weight: Float | None) -> npt.NDArray[np.float64]:
    """`_summed` over the squared anchor, from the number of blocks of each size: exact sums of whole numbers, however
    many columns there are."""
    table, zero = _table(scheme)
    sizes = quotient(no_clip, anchor)
    sizes *= np.float32(_SIZES)
    place = np.rint(sizes, out=sizes).astype(np.intp)
    place += zero + len(table) * np.arange(len(anchor))
    each = None if weight is None else np.broadcast_to(np.rint(weight * np.float32(1 << 8)), place.shape).ravel()
    counts = np.bincount(place.ravel(), each, len(table) * len(anchor)).reshape(len(anchor), -1)
    losses: npt.NDArray[np.float64] = table.T @ counts.T.astype(np.float64)
    return losses


@functools.lru_cache
def _table(scheme: Scheme) -> tuple[npt.NDArray[np.float64], int]:
    """What a block of each size loses at each scale, in 2**-16 of the squared anchor, [sizes, S], and where 0 is."""
    low, high = ((scheme.multiplier_min if scheme.mirrors else 0), scheme.multiplier_max)
    sizes = np.arange(low * _SIZES, high * _SIZES + 1, dtype=np.float32)[:, None] / np.float32(_SIZES)
    end = np.broadcast_to(_largest(sizes, scheme), sizes.shape)
    room = np.empty((2, len(sizes), len(COLUMN)), np.float32)
    loss = _loss(scheme, np.abs(sizes), end, (COLUMN, np.float32(1) / COLUMN), (room[0], room[1]))
    return np.rint(loss.astype(np.float64) * (1 << 16)), -low * _SIZES


def _loss(
    scheme: Scheme, size: Float, end: Float | np.float32, scale: tuple[Float, Float], room: tuple[Float, Float]
) -> Float:
    """What blocks lose at a column scale, over ``L / 12`` for L values, in the first array of ``room``.

    At ``u`` times the step that clips nothing a block loses ``L u²/12`` of that step squared by rounding, and
    ``e² (1 - u)²`` by clipping its extreme of code ``e``, if ``u < 1``; the best whole multiplier is nearest to the
    ``u`` where the sum is least.

    Args:
        scheme: How the blocks are stored.
        size: The step that clips nothing, of each block.
        end: Its largest multiplier.
        scale: The scale of each column, and its inverse.
        room: Two arrays to compute in.
    """
    noise, clipping = prod(scheme.block_shape) / 12, max(scheme.code_max, -scheme.code_min) ** 2
    step, clipped = room
    np.multiply(size, scale[1] * np.float32(clipping / (noise + clipping)), out=step)
    np.maximum(np.minimum(np.rint(step, out=step), end, out=step), 1, out=step)
    step *= scale[0]
    np.maximum(np.subtract(size, step, out=clipped), 0, out=clipped)
    clipped *= clipped
    clipped *= np.float32(clipping / noise)
    step *= step
    step += clipped
    return step


def _tried(tiles: Tiles, scheme: Scheme, no_clip: Float, scales: list[Float], effort: Effort) -> tuple[Float, Float]:
    """Of each column the best of ``scales`` after a fit by least squares, and the multipliers that go with it."""
    multipliers = np.stack([_multipliers(no_clip, scale, scheme, effort) for scale in scales])
    steps = multipliers * np.array(scales)[:, None, None]
    sums = tiles.fit(steps.reshape(-1, *no_clip.shape)).reshape(*steps.shape[:2], 2, *no_clip.shape)
    gains, fitted, chosen = zip(*map(_fitted, scales, multipliers, steps, sums), strict=True)
    best = np.argmax(gains, axis=0)
    return round_11_bits(np.choose(best, fitted)), np.choose(best, chosen)


def _fitted(
    scale: Float, multipliers: Float, steps: Float, sums: Float
) -> tuple[npt.NDArray[np.float64], Float, Float]:
    """The best multiplier of each block, the column scale of least squares, and by how much that lowers the error.

    Args:
        scale: The column scale tried, [C].
        multipliers: Those tried for each block, [M, R, C].
        steps: ``scale * multipliers``.
        sums: Of ``code * value`` and ``code²`` of each, [M, 2, R, C].

    Returns:
        The sum of ``value²`` less the error [C], the fitted scale [C], and the multipliers [R, C].
    """
    best, least = np.empty((3, *steps.shape[1:]), np.float32), np.full(steps.shape[1:], np.inf, np.float32)
    sums *= steps[:, None]
    sums[:, 1] *= steps
    for multiplier, (cross, power) in zip(multipliers, sums, strict=True):
        loss = power - cross
        loss -= cross
        wins = loss < least
        np.copyto(least, loss, where=wins)
        for kept, value in zip(best, (multiplier, cross, power), strict=True):
            np.copyto(kept, value, where=wins)
    cross, power = best[1:].sum(axis=1, dtype=np.float64)
    factor = cross / np.where(power == 0, 1, power)
    return cross * factor, scale * factor.astype(np.float32), best[0]


def _multipliers(no_clip: Float, scale: Float, scheme: Scheme, effort: Effort) -> list[Float]:
    """Those worth trying for each block, [R, C] each, the largest first."""
    wanted = quotient(no_clip, scale)
    largest = np.ceil(np.abs(wanted) * np.float32(effort.largest))
    return [_in_range(scheme, largest - i, wanted) for i in range(effort.multipliers)]


def _anchor(no_clip: Float, scheme: Scheme) -> Float:
    """The least column scale [C] at which no multiplier is out of range and nothing is clipped."""
    least: Float = (np.abs(no_clip) / _largest(no_clip, scheme)).max(axis=0)
    return least


def _in_range(scheme: Scheme, size: Float, sign: Float) -> Float:
    """Multipliers of a magnitude from 1 and a sign."""
    size = np.clip(size, 1, _largest(sign, scheme))
    if scheme.mirrors:
        return np.copysign(size, sign)
    return size


def _largest(sign: Float, scheme: Scheme) -> Float | np.float32:
    """Largest magnitude of a multiplier of that sign."""
    if not scheme.mirrors:
        return np.float32(scheme.multiplier_max)
    return np.where(sign < 0, np.float32(-scheme.multiplier_min), np.float32(scheme.multiplier_max))
