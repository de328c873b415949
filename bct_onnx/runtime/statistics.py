"""What goes through a model: per-channel statistics of intermediate values, gathered in a stream.

Memory is that of one sample: each sample's values are reduced to a few numbers per channel and dropped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from bct_onnx.graph.save import embedded
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.session import run, session

KEY = "bct_onnx.statistics"
"""Key in `onnx_ir.Value.meta` under which passes leave and find a value's `ChannelStatistics`."""

Vector = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class ChannelStatistics:
    """Figures per channel (last axis, length K) over all rows of all samples.

    Attributes:
        max_abs: Largest magnitude, [K].
        sum_squares: Sum of squares, [K].
        rows: Number of rows (tokens).
        products: Sum of x xᵀ over rows, float32 [K, K] (XᵀX), or None where it was not asked for.
    """

    max_abs: Vector
    sum_squares: Vector
    rows: int
    products: npt.NDArray[np.float32] | None = None

    @property
    def mean_square(self) -> Vector:
        """Mean of the squares, [K]: the diagonal of X^T X / rows."""
        return self.sum_squares / max(self.rows, 1)

    def __add__(self, other: ChannelStatistics) -> ChannelStatistics:
        top = np.maximum(self.max_abs, other.max_abs)
        products = self.products
        if products is not None and other.products is not None:
            products = np.add(products, other.products, out=products)  # in place: the largest arrays of a calibration
        return ChannelStatistics(top, self.sum_squares + other.sum_squares, self.rows + other.rows, products)

    def divided(self, factors: npt.NDArray[Any]) -> ChannelStatistics:
        """The statistics of the same value divided by ``factors`` [K]."""
        wide = factors.astype(np.float64)
        products = None if self.products is None else (self.products / np.outer(wide, wide)).astype(np.float32)
        return ChannelStatistics(self.max_abs / wide, self.sum_squares / wide**2, self.rows, products)

    @classmethod
    def of(cls, values: npt.NDArray[Any], *, products: bool = False) -> ChannelStatistics:
        """Statistics of one array, [..., K].

        >>> ChannelStatistics.of(np.array([[1.0, -2.0], [3.0, 0.0]])).mean_square
        array([5., 2.])
        """
        rows = values.reshape(-1, values.shape[-1]).astype(np.float64)
        if not len(rows):
            empty = np.zeros(values.shape[-1])
            return cls(empty, empty, 0, np.zeros((len(empty),) * 2, np.float32) if products else None)
        narrow = rows.astype(np.float32)
        outer = np.matmul(narrow.T, narrow) if products else None
        return cls(np.abs(rows).max(axis=0), np.square(rows).sum(axis=0), len(rows), outer)


def observe(
    model: ir.Model, values: Sequence[ir.Value], samples: Iterable[Feeds], *, products: Container[str] = ()
) -> dict[str, ChannelStatistics]:
    """Run ``model`` on ``samples`` and gather the statistics of ``values`` of its main graph, by name.

    Args:
        model: The model as it is now.
        values: What to look at.
        samples: Model inputs.
        products: Names of the values whose XᵀX is wanted too.

    Raises:
        TargetError: ONNX Runtime cannot load or run the model.
    """
    proto = embedded(model)
    names = [value.name or "" for value in values]
    present = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    runner = session(proto.SerializeToString())
    del proto
    found: dict[str, ChannelStatistics] = {}
    for feeds in samples:
        for name, array in zip(names, run(runner, feeds, names), strict=True):
            one = ChannelStatistics.of(array, products=name in products)
            found[name] = found[name] + one if name in found else one
    return found
