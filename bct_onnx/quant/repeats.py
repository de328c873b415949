"""Rows and columns of a quantized weight once more, behind the others."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from bct_onnx.quant.blocks import Blocks

Indices = npt.NDArray[np.intp]


def columns(blocks: Blocks, chosen: Indices) -> Blocks:
    """Blocks of single columns with some columns [n] again, exactly.

    >>> from bct_onnx.quant import Scheme, quantize
    >>> blocks = quantize(np.eye(4, dtype=np.float32), Scheme(4, 2))
    >>> (columns(blocks, np.array([3])).dequantize() == blocks.dequantize()[:, [0, 1, 2, 3, 3]]).all()
    np.True_
    """
    multipliers = None if blocks.multipliers is None else _nibbles(_longer(blocks.multipliers, chosen, axis=1))
    return dataclasses.replace(
        blocks,
        shape=(blocks.shape[0], blocks.shape[1] + len(chosen)),
        codes=_longer(blocks.codes, chosen, axis=1),
        multipliers=multipliers,
        scale=_longer(blocks.scale, chosen, axis=0),
    )


def rows(blocks: Blocks, chosen: Indices) -> Blocks:
    """Blocks of single columns whose rows they divide, with some rows [n] again, in blocks of their own.

    Rows that share a block share its multipliers, so with these they are rounded to the nearest.

    >>> from bct_onnx.quant import Scheme, quantize
    >>> blocks = quantize(np.eye(4, dtype=np.float32), Scheme(4, 2))
    >>> rows(blocks, np.array([3, 0])).dequantize().round(2)[4:].tolist()
    [[0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]]
    """
    shape = (blocks.shape[0] + len(chosen), blocks.shape[1])
    if blocks.multipliers is None:
        return dataclasses.replace(blocks, shape=shape, codes=_longer(blocks.codes, chosen, axis=0))
    values, height = blocks.int8()[chosen].astype(np.int32), blocks.scheme.block_shape[0]
    highest = int(np.abs(blocks.multipliers.astype(np.int32)).max(initial=1))
    highest = min(highest, 7 if (blocks.multipliers.astype(np.int32) < 0).any() else 15)
    codes, multipliers = [blocks.codes], [blocks.multipliers.astype(np.int32)]
    for start in range(0, len(chosen), height):
        rounded, factor = _rounded(values[start : start + height], blocks, highest)
        codes.append(rounded)
        multipliers.append(factor[None])
    joined = np.concatenate(codes, axis=0)
    return dataclasses.replace(blocks, shape=shape, codes=joined, multipliers=_nibbles(np.concatenate(multipliers)))


def _rounded(values: npt.NDArray[Any], blocks: Blocks, highest: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Codes [n, N] of integers, and the multiplier of least error of each column, [N]."""
    factors = np.arange(1, highest + 1)[:, None, None]
    low, high = blocks.scheme.code_min, blocks.scheme.code_max
    tried = np.clip(np.rint(values / factors), low, high)
    best = np.square(tried * factors - values).sum(axis=1).argmin(axis=0)
    rounded = np.take_along_axis(tried, best[None, None], axis=0)[0]
    return rounded.astype(blocks.codes.dtype), best + 1


def _longer(array: npt.NDArray[Any], chosen: Indices, *, axis: int) -> npt.NDArray[Any]:
    return np.concatenate([array, array.take(chosen, axis=axis)], axis=axis)


def _nibbles(multipliers: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """In the type that says whether any is negative."""
    return multipliers.astype(np.int8 if (multipliers < 0).any() else np.uint8)
