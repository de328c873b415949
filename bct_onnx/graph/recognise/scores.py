"""The scores of an attention, run on arrays: which factor of ``q kᵀ`` they are, plus masks."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import onnx_ir as ir

from bct_onnx.graph import tensors
from bct_onnx.graph.neighbours import reached, sources
from bct_onnx.graph.recognise.heads import LARGEST, Heads, concrete, run
from bct_onnx.graph.recognise.region import Region, is_constant
from bct_onnx.graph.tensors import Array

MASKED = -1e30
"""Scores at or below this are as good as minus infinity: in float32, adding any score to it changes nothing."""


_Sizes = tuple[int, int, int, int, int]
"""Batch, heads, queries, keys and size of heads, where the graph does not say."""


@dataclasses.dataclass(frozen=True)
class Mask:
    """A value added to the scores, or (with ``fill``) a condition under which they are replaced.

    Attributes:
        value: Broadcastable to ``[B, H, Sq, Skv]``; boolean if there is a ``fill``.
        fill: What masked scores become; None for an additive mask.
        keep: The value of the condition where scores are kept.
    """

    value: ir.Value
    fill: float | None = None
    keep: bool = True

    def infinite(self) -> bool:
        """Whether -inf is among the constants that masked scores come from."""
        if self.fill is None:
            return _reads_infinity(self.value)
        return self.fill == -math.inf


def scale_of(region: Region, query: ir.Value, key: Heads, masks: tuple[Mask, ...]) -> float | None:
    """The factor of the product in the scores, the same at two sizes, also of heads where those are not known (a factor
    that is computed from the size of heads is none then); as many queries as keys if nothing else fits. None where the
    scores are not ``scale * q kᵀ`` plus the masks.
    """
    for sizes in (((2, 4, 5, 7, 6), (3, 4, 11, 13, 8)), ((2, 4, 5, 5, 6), (3, 4, 11, 11, 8))):
        first, second = (_fitted(region, query, key, masks, trial) for trial in sizes)
        if first is not None and second is not None and abs(first - second) <= 1e-9 * first:
            return first  # positive: ``Attention`` is defined by its square root
    return None


def _fitted(region: Region, query: ir.Value, key: Heads, masks: tuple[Mask, ...], sizes: _Sizes) -> float | None:
    """Run the scores on two queries, of which the second is twice the first, and read the scale off the difference."""
    feeds = _feeds(region, query, key, masks, sizes)
    product = _product(feeds[query], key, feeds[key.source])
    once = run(region, list(map(feeds.__getitem__, region.inputs)))
    feeds[query] = 2 * feeds[query]
    doubled = _product(feeds[query], key, feeds[key.source])
    twice = run(region, list(map(feeds.__getitem__, region.inputs)))
    if once is None or twice is None or product is None or doubled is None or once.shape != product.shape:
        return None
    seen = once > MASKED / 1e10
    step = (doubled - product)[seen]
    if not step.any():
        return None
    scale = float(((twice[seen] - once[seen]) * step).sum() / (step**2).sum())
    expected = scale * product
    for mask in masks:
        data = feeds[mask.value]
        expected = expected + data if mask.fill is None else np.where(data == mask.keep, expected, mask.fill)
    if np.allclose(once, expected, rtol=1e-6, atol=1e-6):
        return scale
    return None


def _product(query: Array, key: Heads, source: Array) -> Array | None:
    """``q kᵀ``; None if these sizes do not go together."""
    keys = np.repeat(source.transpose(key.perm), key.groups, axis=1)
    if query.shape[0] != keys.shape[0] or keys.shape[1] not in (1, query.shape[1]) or query.shape[3] != keys.shape[3]:
        return None
    product: Array = query @ keys.swapaxes(-1, -2)
    return product


def _feeds(
    region: Region, query: ir.Value, key: Heads, masks: tuple[Mask, ...], sizes: _Sizes
) -> dict[ir.Value, Array]:
    """Random arrays for what enters; the sizes that a mask fixes hold for queries and keys as well."""
    random, named = np.random.default_rng(0), dict[str, int]()
    batch, heads, queries, keys, width = sizes
    for mask in masks:
        fixed_queries, fixed_keys = [1, 1, *(mask.value.shape or ())][-2:]
        if isinstance(fixed_queries, int) and fixed_queries > 1:
            queries = fixed_queries
        if isinstance(fixed_keys, int) and fixed_keys > 1:
            keys = fixed_keys
    if queries * keys > LARGEST:
        queries, keys = sizes[2:4]  # what memory would not hold is tried at another size
    q = random.normal(size=concrete(query, (batch, heads, queries, width), named))
    arranged = (q.shape[0], q.shape[1] // key.groups, keys, q.shape[3])
    source = random.normal(size=concrete(key.source, tuple(arranged[key.perm.index(axis)] for axis in range(4)), named))
    feeds: dict[ir.Value, Array] = {key.source: source, query: q}
    full = (q.shape[0], q.shape[1], q.shape[2], source.shape[key.perm[2]])
    for mask in masks:
        shape = concrete(mask.value, full, named)
        data = random.normal(size=shape) if mask.fill is None else random.random(shape) < 0.7
        feeds.setdefault(mask.value, tensors.array(mask.value) if is_constant(mask.value) else data)
    for measured in region.inputs:
        feeds.setdefault(measured, np.zeros(concrete(measured, sizes[:4], named)))
    return feeds


def _reads_infinity(value: ir.Value, limit: int = 32) -> bool:
    return -math.inf in map(tensors.number, itertools.islice(reached([value], sources), limit))
