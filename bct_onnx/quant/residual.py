"""What quantizing a weight has cost, measured in parts so that no second copy of it is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from bct_onnx.quant.blocks import Blocks
from bct_onnx.quant.error import Error
from bct_onnx.quant.strips import READ_VALUES, oriented

_PART_VALUES = 1 << 17


def squared_error(weight: npt.NDArray[Any], blocks: Blocks, after_read: Callable[[], None] | None = None) -> Error:
    """The error of the blocks of a weight [K, N] in float64.

    ``after_read`` is called now and then, as in `bct_onnx.quant.quantize`.

    >>> from bct_onnx.quant import Scheme, quantize
    >>> squared_error(np.eye(4, dtype=np.float32), quantize(np.eye(4, dtype=np.float32), Scheme(8, 4)))
    Error(noise=0.0, signal=4.0)
    """
    noise = signal = 0.0
    k, n = blocks.shape
    in_rows = weight.strides[0] >= weight.strides[1]
    unit = blocks.scheme.block_shape[0 if in_rows else 1]
    length, other = (k, n) if in_rows else (n, k)
    step = max(1, _PART_VALUES // (other * unit)) * unit
    for start in range(0, length, step):
        stop = min(start + step, length)
        part = weight[start:stop] if in_rows else weight[:, start:stop].T
        approximation = (rows if in_rows else columns)(blocks, start, stop).dequantize()
        exact = np.asarray(part, dtype=np.float32)
        signal += _power(exact)
        noise += _power(np.subtract(exact, oriented(approximation, not in_rows)))
        if after_read is not None and stop * other // READ_VALUES > start * other // READ_VALUES:
            after_read()
    return Error(noise, signal)


def rows(blocks: Blocks, start: int, stop: int) -> Blocks:
    """The blocks of rows ``start`` to ``stop``; ``start`` must be a multiple of a block's height."""
    height = blocks.scheme.block_shape[0]
    grid = slice(start // height, -(-stop // height))
    return dataclasses.replace(
        blocks,
        shape=(stop - start, blocks.shape[1]),
        codes=blocks.codes[start:stop],
        multipliers=_part(blocks.multipliers, grid),
        scale=blocks.scale if blocks.scale.ndim == 1 else blocks.scale[grid],
        zero_points=_part(blocks.zero_points, grid),
    )


def columns(blocks: Blocks, start: int, stop: int) -> Blocks:
    """The blocks of columns ``start`` to ``stop``; ``start`` must be a multiple of a block's width."""
    width = blocks.scheme.block_shape[1]
    grid = slice(start // width, -(-stop // width))
    return dataclasses.replace(
        blocks,
        shape=(blocks.shape[0], stop - start),
        codes=blocks.codes[:, start:stop],
        multipliers=_part(blocks.multipliers, (slice(None), grid)),
        scale=blocks.scale[..., grid],
        zero_points=_part(blocks.zero_points, (slice(None), grid)),
    )


def _power(values: npt.NDArray[np.float32]) -> float:
    """The sum of squares: in float32 along rows, in float64 over them."""
    return float(np.einsum("ij,ij->i", values, values).sum(dtype=np.float64))


def _part(numbers: npt.NDArray[Any] | None, at: slice | tuple[slice, slice]) -> npt.NDArray[Any] | None:
    """Some numbers of blocks; none where blocks have none."""
    if numbers is None:
        return None
    return numbers[at]
