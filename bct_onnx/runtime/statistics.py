"""What goes through a model: statistics of intermediate values, gathered in a stream.

Memory is that of one batch: its values are reduced to a few numbers per channel and dropped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import helper

from bct_onnx.graph.save import embedded
from bct_onnx.runtime.feeds import Feeds
from bct_onnx.runtime.session import run, session

KEY = "bct_onnx.statistics"
"""Key in `onnx_ir.Value.meta` under which passes leave and find a value's `ChannelStatistics`."""

Vector = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class ChannelStatistics:
    """Figures per channel (last axis, length K) over all rows of all samples.

    A value that was observed as a whole counts as one channel (K = 1) with a row per element.

    Attributes:
        minimum: Smallest value, [K].
        maximum: Largest value, [K].
        sum_squares: Sum of squares, [K].
        rows: Number of rows (tokens); 0 makes minimum and maximum +inf and -inf.
        products: Sum of x xᵀ over rows, float32 [K, K] (XᵀX), or None where it was not asked for.
    """

    minimum: Vector
    maximum: Vector
    sum_squares: Vector
    rows: int
    products: npt.NDArray[np.float32] | None = None

    @property
    def max_abs(self) -> Vector:
        """Largest magnitude, [K]; 0 without rows."""
        return np.maximum(-self.minimum, self.maximum) if self.rows else np.zeros_like(self.maximum)

    @property
    def mean_square(self) -> Vector:
        """Mean of the squares, [K]: the diagonal of X^T X / rows."""
        return self.sum_squares / max(self.rows, 1)

    def __add__(self, other: ChannelStatistics) -> ChannelStatistics:
        products = self.products
        if products is not None and other.products is not None:
            products = np.add(products, other.products, out=products)  # in place: the largest arrays of a calibration
        return ChannelStatistics(
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
            self.sum_squares + other.sum_squares,
            self.rows + other.rows,
            products,
        )

    def divided(self, factors: npt.NDArray[Any]) -> ChannelStatistics:
        """The statistics of the same value divided by ``factors`` [K], which are positive."""
        wide = factors.astype(np.float64)
        products = None if self.products is None else (self.products / np.outer(wide, wide)).astype(np.float32)
        return ChannelStatistics(
            self.minimum / wide, self.maximum / wide, self.sum_squares / wide**2, self.rows, products
        )

    @classmethod
    def of(cls, values: npt.NDArray[Any], *, products: bool = False) -> ChannelStatistics:
        """Statistics of one array, [..., K].

        >>> ChannelStatistics.of(np.array([[1.0, -2.0], [3.0, 0.0]])).mean_square
        array([5., 2.])
        """
        rows = values.reshape(-1, values.shape[-1])
        rows = rows.astype(np.float32) if rows.dtype.itemsize < 4 else rows
        narrow = rows.astype(np.float32, copy=False)
        return cls(
            rows.min(axis=0, initial=np.inf).astype(np.float64),
            rows.max(axis=0, initial=-np.inf).astype(np.float64),
            np.einsum("nk,nk->k", rows, rows, dtype=np.float64),
            len(rows),
            np.matmul(narrow.T, narrow) if products else None,
        )


class Observer:
    """A copy of a model in ONNX Runtime, whose values are looked at while it runs.

    Args:
        model: The model as it is now.
        values: What to look at, in its main graph.
        whole: Names of values that count as one channel; they are reduced within ONNX Runtime and never handed out.
        products: Names of values whose XᵀX is wanted too.

    Attributes:
        session: The running copy.
        found: The statistics by name, of all that was seen so far.

    Raises:
        TargetError: ONNX Runtime cannot load the model.
    """

    def __init__(
        self, model: ir.Model, values: Sequence[ir.Value], *, whole: Container[str] = (), products: Container[str] = ()
    ) -> None:
        proto = embedded(model)
        self._products = products
        self._rows = [value.name or "" for value in values if value.name not in whole]
        self._whole = [value.name or "" for value in values if value.name in whole]
        present = {output.name for output in proto.graph.output}
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._rows if name not in present)
        for name in self._whole:
            proto.graph.node.extend(_reduced(name))
            proto.graph.output.extend(onnx.ValueInfoProto(name=one) for one in _figures(name))
        self.session = session(proto.SerializeToString())
        self.found: dict[str, ChannelStatistics] = {}

    def see(self, feeds: Feeds) -> None:
        """Run the model on one batch and add what goes through it.

        Raises:
            TargetError: ONNX Runtime cannot run the model.
        """
        names = [*self._rows, *(figure for name in self._whole for figure in _figures(name))]
        arrays = iter(run(self.session, feeds, names))
        for name in self._rows:
            self._add(name, ChannelStatistics.of(next(arrays), products=name in self._products))
        for name in self._whole:
            low, high, squares, size = (next(arrays).astype(np.float64).reshape(1) for _ in range(4))
            self._add(name, ChannelStatistics(low, high, squares, int(size[0])))

    def _add(self, name: str, one: ChannelStatistics) -> None:
        self.found[name] = self.found[name] + one if name in self.found else one


def _figures(name: str) -> tuple[str, ...]:
    return tuple(f"{name}.bct_onnx.{figure}" for figure in ("minimum", "maximum", "sum_squares", "size"))


def _reduced(name: str) -> Iterable[onnx.NodeProto]:
    """Smallest, largest, sum of squares and number of elements of a tensor; half precision is widened first."""
    *reductions, size = _figures(name)
    wide = f"{name}.bct_onnx.wide"
    yield helper.make_node("Cast", [name], [wide], to=onnx.TensorProto.FLOAT)
    for op_type, output in zip(("ReduceMin", "ReduceMax", "ReduceSumSquare"), reductions, strict=True):
        yield helper.make_node(op_type, [wide], [output], keepdims=0)
    yield helper.make_node("Size", [name], [size])
