"""What quantizing a weight has cost, measured in strips so that no second copy of it is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from bct_onnx.quant.blocks import READ_VALUES, Blocks

_STRIP_VALUES = 1 << 20


def squared_error(
    weight: npt.NDArray[Any], blocks: Blocks, after_read: Callable[[], None] | None = None
) -> tuple[float, float]:
    """Sums of ``(w - ŵ)²`` and of ``w²`` over a weight [K, N] and its blocks, in float64.

    ``after_read`` is called now and then, as in `bct_onnx.quant.quantize`.

    >>> from bct_onnx.quant import Scheme, quantize
    >>> squared_error(np.eye(4, dtype=np.float32), quantize(np.eye(4, dtype=np.float32), Scheme(8, 4)))
    (0.0, 4.0)
    """
    noise = signal = 0.0
    k, n = blocks.shape
    width = blocks.scheme.block_shape[1]
    step = max(1, _STRIP_VALUES // (k * width)) * width
    for start in range(0, n, step):
        exact = np.asarray(weight[:, start : start + step], dtype=np.float32)
        difference = exact - columns(blocks, start, min(start + step, n)).dequantize()
        noise += float(np.square(difference, dtype=np.float64).sum())
        signal += float(np.square(exact, dtype=np.float64).sum())
        if after_read is not None and (start + step) * k // READ_VALUES > start * k // READ_VALUES:
            after_read()
    return noise, signal


def columns(blocks: Blocks, start: int, stop: int) -> Blocks:
    """The blocks of columns ``start`` to ``stop``; ``start`` must be a multiple of a block's width."""
    width = blocks.scheme.block_shape[1]
    grid = slice(start // width, -(-stop // width))
    return dataclasses.replace(
        blocks,
        shape=(blocks.shape[0], stop - start),
        codes=blocks.codes[:, start:stop],
        multipliers=None if blocks.multipliers is None else blocks.multipliers[:, grid],
        scale=blocks.scale[..., grid],
        zero_points=None if blocks.zero_points is None else blocks.zero_points[:, grid],
    )
