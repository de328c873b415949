"""Factors of channels: what an outlier channel is divided by, and the multiplication that undoes it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.forms import codes
from bct_onnx.graph.edit import Edit, take_place
from bct_onnx.runtime.statistics import KEY

Factors = npt.NDArray[np.float32]
"""One positive number per channel, [K]."""


def outlier_factors(
    magnitude: npt.NDArray[Any], strength: float, block: int, *, shift: bool, above: float = 1.0
) -> tuple[Factors | None, str]:
    """One factor of at least 1 per channel that brings its magnitude nearer to the others', or why there is none.

    Args:
        magnitude: Largest magnitude of each channel, [K].
        strength: Exponent.
        block: Channels that share a factor; 1 compares with ``above`` times the median, more with the least block.
        shift: Round the factors to powers of two.
        above: Multiple of the median that no factor is needed for.
    """
    if not np.isfinite(magnitude).all() or not np.median(magnitude):
        return None, "half of the channels are zero, or one is not finite"
    if len(magnitude) % block:
        return None, f"blocks of {block} do not divide its {len(magnitude)} channels"
    if block == 1:
        factors = np.maximum((magnitude / (above * np.median(magnitude))) ** strength, 1.0)
    else:
        blocks = np.maximum(magnitude.reshape(-1, block).max(axis=1), 1e-30)
        factors = np.repeat((blocks / blocks.min()) ** strength, block)
    if shift:
        factors = 2.0 ** np.rint(np.log2(factors))
    if factors.max() <= 1.5:
        return None, "no outlier channels"
    return factors.astype(np.float32), ""


def multiply_back(source: ir.Value, uses: Collection[tuple[ir.Node, int]], factors: Factors) -> None:
    """Give what ``source`` was before it was divided by ``factors``, under its name, to ``uses`` and, if it is one, as
    the output of the graph."""
    producer = source.producer()
    assert producer is not None and producer.graph is not None
    if not uses and not source.is_graph_output():
        return
    edit = Edit(producer, source.name or "smooth", after=True)
    kind = source.dtype or ir.DataType.FLOAT
    back = edit.op("Mul", source, edit.constant(f"{source.name}.factors", factors.astype(kind.numpy())), name="whole")
    back.dtype, back.shape = kind, source.shape
    back.meta[KEY] = source.meta[KEY].divided(1 / factors)
    for user, place in uses:
        user.replace_input_with(place, back)
    take_place(source, back, "divided")


def plain(value: ir.Value) -> ir.Value:
    """What ``value`` is a multiple of, channel by channel: balanced and smoothed values are quantized before that."""
    producer = value.producer()
    if producer is None or producer.op_type != "Mul" or producer.domain:
        return value
    for index in (1, 0):
        array, other = codes.vector(producer.inputs[index]), producer.inputs[1 - index]
        if array is not None and array.ndim == 1 and other is not None:
            return other
    return value
