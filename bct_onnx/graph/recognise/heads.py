"""Keys and values of an attention: where they come from, seen through transpositions, reshapes and repeated heads.

A transposition may be spelled with reshapes around it, and grouped heads with ``Unsqueeze``, ``Expand`` and
``Reshape``; the nodes are run on arrays of two different sizes to see what they do.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from bct_onnx.graph.known import are_ones
from bct_onnx.graph.neighbours import producer
from bct_onnx.graph.recognise.region import ELEMENTWISE, UNFIT, Region, attempt, between, is_constant
from bct_onnx.graph.tensors import Array

Perm = tuple[int, ...]

_IDENTITY: Perm = (0, 1, 2, 3)
_RESHAPING = frozenset(("Expand", "Reshape", "Squeeze", "Transpose", "Unsqueeze"))
_ALLOWED = ELEMENTWISE | _RESHAPING | {"Concat", "Gather", "MatMul", "Shape", "Slice"}


@dataclasses.dataclass(frozen=True)
class Heads:
    """Where keys or values come from: ``repeat(transpose(source, perm), groups, axis=1)`` is ``[B, H, S, D]``."""

    source: ir.Value
    perm: Perm = _IDENTITY
    groups: int = 1

    @property
    def moved(self) -> bool:
        """Whether a transposition is needed."""
        return self.perm != _IDENTITY


def keys_of(value: ir.Value, *, repeats: bool) -> Heads | None:
    """The farthest source of transposed keys that need not be transposed at all, else the farthest source.

    Args:
        value: ``[B, H, D, Skv]``, times any factor.
        repeats: Whether to look behind a repetition of heads.
    """
    candidates = []
    for source in _sources(value):
        heads = _relation(source, value, any_factor=True)
        if heads is not None and (repeats or heads.groups == 1):
            batch, head, size, sequence = heads.perm
            candidates.append(dataclasses.replace(heads, perm=(batch, head, sequence, size)))
    return next((heads for heads in reversed(candidates) if not heads.moved), candidates[-1] if candidates else None)


def values_of(value: ir.Value, *, repeats: bool) -> Heads:
    """The farthest source that is ``value`` itself or (with ``repeats``) ``value`` before its heads were repeated."""
    candidates = [Heads(value)]
    for source in _sources(value):
        heads = _relation(source, value, any_factor=False)
        if heads is not None and not heads.moved and (repeats or heads.groups == 1):
            candidates.append(heads)
    return candidates[-1]


def scaled(node: ir.Node) -> ir.Value | None:
    """What a ``Mul`` or ``Div`` scales by a single number; None if neither side is one."""
    first, second = node.inputs
    if first is not None and second is not None and _single(second):
        return first
    if node.op_type == "Mul" and first is not None and _single(first):
        return second
    return None


def connected(inputs: tuple[ir.Value, ...], output: ir.Value) -> Region | None:
    """The region from ``inputs`` to ``output``; values of which only the shape is read may enter as well, put last."""
    measured: dict[ir.Value, None] = {}
    seen: set[ir.Node] = set()

    def look(value: ir.Value | None) -> None:
        node = producer(value)
        if node is None or value in inputs or node in seen or not _allowed(node) or len(seen) > 48:
            return
        seen.add(node)
        read = node.inputs[0] if node.op_type == "Shape" else None
        if read is not None and read not in inputs and not between(inputs[:1], read, _allowed):
            measured[read] = None
            return
        for above in node.inputs:
            look(above)

    look(output)
    return between((*inputs, *measured), output, _allowed)


LARGEST = 1 << 25
"""Most elements of an array that is made to try a region: beyond, what the model declares is a mistake."""


def concrete(value: ir.Value, defaults: tuple[int, ...], named: dict[str, int]) -> tuple[int, ...]:
    """Sizes to try for a value: those it has; for open ones those of the same name; else ``defaults``, aligned last."""
    if value.shape is None:
        return defaults
    defaults = (*[2] * value.shape.rank(), *defaults)[-value.shape.rank() :] if value.shape.rank() else ()
    sizes = []
    for size, default in zip(value.shape, defaults, strict=True):
        if isinstance(size, int):
            sizes.append(size)
        else:
            sizes.append(default if size.value is None else named.setdefault(size.value, default))
    if 0 < math.prod(sizes) <= LARGEST:
        return tuple(sizes)
    return defaults  # which then do not fit the nodes


def run(region: Region, arrays: list[Array]) -> Array | None:
    """Evaluate; None where the sizes tried do not fit the nodes."""
    try:
        return attempt(region, arrays)
    except UNFIT:
        return None


def _allowed(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type in _ALLOWED


def _single(value: ir.Value) -> bool:
    return value.shape is not None and are_ones(value.shape)


def _sources(value: ir.Value, limit: int = 10) -> Iterator[ir.Value]:
    """The value, and upwards what it is a rearrangement or a scaling of."""
    for _ in range(limit):
        yield value
        node = value.producer()
        above = None
        if node is not None and not node.domain and node.op_type in _RESHAPING:
            above = node.inputs[0]
        elif node is not None and not node.domain and node.op_type in ("Mul", "Div"):
            above = scaled(node)
        if above is None or is_constant(above):
            return
        value = above


def _relation(source: ir.Value, target: ir.Value, *, any_factor: bool) -> Heads | None:
    """How ``target`` rearranges ``source``, seen at two sizes."""
    if source.shape is None or source.shape.rank() != 4:
        return None
    if source is target:
        return Heads(source)
    region = connected((source,), target)
    if region is None:
        return None
    arrangements = {_arrangement(region, sizes, any_factor=any_factor) for sizes in ((2, 3, 5, 7), (3, 4, 11, 13))}
    arrangement = arrangements.pop()
    if arrangement and not arrangements:
        return Heads(source, *arrangement)
    return None


def _arrangement(region: Region, sizes: tuple[int, ...], *, any_factor: bool) -> tuple[Perm, int] | None:
    """``(perm, groups)`` that turn the first input into the output, tried on one array; None if nothing does."""
    random, named = np.random.default_rng(0), dict[str, int]()
    arrays = [random.uniform(1, 2, concrete(value, sizes, named)) for value in region.inputs]
    source, result = arrays[0], run(region, arrays)
    if result is None or result.ndim != 4 or result.size % source.size:
        return None
    groups = result.size // source.size
    factor = result.sum() / (source.sum() * groups) if any_factor else 1.0
    for perm in itertools.permutations(range(4)):
        expected = np.repeat(source.transpose(perm), groups, axis=1)
        if expected.shape == result.shape and np.allclose(result, factor * expected, rtol=1e-9, atol=0):
            return perm, groups
    return None
