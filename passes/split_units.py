"""Give units that become far larger than all others in a layer more than one column."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from bct_onnx.base import Declined, NodePass, Outcome, Site, Stage
from bct_onnx.errors import UsageError
from bct_onnx.forms import codes, weights
from bct_onnx.forms.products import Product
from bct_onnx.forms.ranges import NOISE, is_guess, span_of
from bct_onnx.graph.edit import Edit, drop_dead
from bct_onnx.graph.neighbours import made_by, only_use, provided
from bct_onnx.graph.signals import signals
from bct_onnx.quant import Blocks, repeats
from bct_onnx.runtime.statistics import measured

WORTH = 0.8
"""A range that gets no shorter than this gains less than 2 dB."""

MARGIN = 1.25
"""By how much the range of random tokens is widened: in text other units may become larger."""


@dataclasses.dataclass(frozen=True)
class SplitUnits(NodePass):
    """Give units that become far larger than all others in a layer more than one column.

    Why:
        Codes have one scale, and behind GELU a single unit of some 1,500 may decide on it: in all-MiniLM-L6-v2 one
        reaches 25 where the next one reaches 6, and all others lose two of their eight bits.

    Before/after:
        ``Gelu(x W + b) V`` becomes the same with column k of W once more, its bias lower by t, and row k of V once
        more, and the result of Gelu becomes codes that end at t: ``Gelu(x) = min(Gelu(x), t) + min(Gelu(x - t), t)``,
        but for a bend around t. Codes of weights are copied, in rows of V to the nearest.

    Declines:
        Layers without such a unit, without statistics, whose weights are shared or not stored in columns of integers,
        and ranges that come from random signals.

    Options:
        most: Columns that a layer gets in addition, at most.

    Promise:
        Bounded: up to 0.17 in a unit that is split, where it is within 2 of a multiple of t; other values within the
        range of the codes move by half a step.
    """

    name: ClassVar[str] = "split-units"
    stage: ClassVar[Stage] = Stage.CODE
    promise: ClassVar[str] = "bounded"
    operators: ClassVar[tuple[str, ...]] = ("Gelu",)

    most: int = 4

    def __post_init__(self) -> None:
        if self.most < 1:
            raise UsageError(f"most={self.most} is not allowed", fix="use 1 or more columns")

    def rewriter(self, model: ir.Model, nodes: Sequence[ir.Node]) -> Callable[[ir.Node], Outcome]:
        """Which values come from random signals is known of the whole model."""
        guessed = signals(model)
        return lambda node: self._split(model, node, guessed)

    def _split(self, model: ir.Model, node: ir.Node, guessed: set[ir.Value]) -> Outcome:
        layer = _Layer.of(node)
        if layer is None or codes.quantized(node.outputs[0]) is not None:
            return None
        name, statistics, span = node.name or "", measured(node.outputs[0]), span_of(node.outputs[0])
        if statistics is None or span is None or statistics.maximum.size != layer.up.weight.n:
            return Declined(name, "no statistics; run calibrate first")
        if is_guess(node.outputs[0], guessed):
            return Declined(name, NOISE)
        if reason := layer.refusal:
            return Declined(name, reason)
        end, units = parts(statistics.maximum, self.most)
        end *= MARGIN if statistics.random else 1.0
        if end > WORTH * span.high:
            return Declined(name, "no unit is far larger than the others")
        layer.split(model, units, end)
        codes.insert(node.outputs[0], codes.Range(span.low, end))
        largest = float(statistics.maximum.max())
        return Site(name, ("Gelu",), f"up to {largest:.3g} in codes up to {end:.3g}: {len(units)} more columns")


def parts(maximum: npt.NDArray[np.float64], most: int) -> tuple[float, list[tuple[int, int]]]:
    """The least end of a range in which all units lie once some are split, and what is added for that.

    Args:
        maximum: Of each unit, [K].
        most: Columns to add, at most.

    Returns:
        The end t, and for each column to add its unit and how many times t its bias is lower.

    >>> parts(np.array([1.0, 24.0, 6.0, 5.0]), 4)
    (6.0, [(1, 1), (1, 2), (1, 3)])
    """
    largest = np.argsort(-maximum, kind="stable")[: most + 1]
    ends = np.unique(np.maximum(maximum[largest][:, None] / np.arange(1, most + 2), 1e-3))
    for end in ends:
        counts = np.ceil(maximum / end - 1e-9).astype(int) - 1
        if counts[counts > 0].sum() <= most:
            added: list[tuple[int, int]] = []
            for unit in np.flatnonzero(counts > 0):
                added += [(int(unit), part) for part in range(1, counts[unit] + 1)]
            return float(end), added
    return float(maximum.max()), []


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A product with a bias, the Gelu of its result, and the product of that."""

    gelu: ir.Node
    up: Product
    down: Product

    @classmethod
    def of(cls, gelu: ir.Node) -> _Layer | None:
        """The layer around a Gelu; None where it is another."""
        x, use = gelu.inputs[0], only_use(gelu.outputs[0])
        addition = made_by(x, "Add")
        if x is None or addition is None or use is None or len(x.uses()) > 1:
            return None
        up = next(iter(provided(map(_product, addition.inputs))), None)
        down = Product.of(use[0], any_bias=True)
        if up is None or down is None or up.addition is not addition or up.bias is None or use[1]:
            return None
        return cls(gelu, up, down)

    @property
    def refusal(self) -> str:
        """Why its weights cannot get columns and rows; empty where they can."""
        for stored in (self.up.weight, self.down.weight):
            if stored.transposed or stored.zero_points is not None or stored.block_shape[1] > 1:
                return "its weights are not stored in blocks of columns"
            if len(stored.float32.uses()) > 1:
                return "its weights are used elsewhere too"
        stored = self.down.weight
        if stored.multipliers is not None and stored.k % stored.block[0]:
            return "blocks do not divide its units"
        return ""

    def split(self, model: ir.Model, units: list[tuple[int, int]], end: float) -> None:
        """Add a column for each of some units, its bias so many times ``end`` lower."""
        chosen = np.array([unit for unit, _ in units])
        lower = np.array([part * end for _, part in units])
        assert self.up.bias is not None and self.up.addition is not None
        _store(model, self.up, repeats.columns(self.up.weight.blocks(), chosen))
        _store(model, self.down, repeats.rows(self.down.weight.blocks(), chosen))
        bias = codes.vector(self.up.bias)
        assert bias is not None
        longer = np.concatenate([bias, bias[chosen] - lower]).astype(bias.dtype)
        constant: ir.Value = Edit(self.up.addition).constant(f"{self.up.bias.name}.split", longer)
        self.up.addition.replace_input_with(list(self.up.addition.inputs).index(self.up.bias), constant)
        for value in (self.up.node.outputs[0], self.up.result, self.gelu.outputs[0]):
            if value.shape is not None:
                value.shape = ir.Shape([*value.shape[:-1], len(longer)])


def _product(value: ir.Value | None) -> Product | None:
    """The product that makes a value."""
    node = made_by(value, "MatMul")
    if node is None:
        return None
    return Product.of(node, any_bias=True)


def _store(model: ir.Model, product: Product, blocks: Blocks) -> None:
    """Multiply by other blocks."""
    stored, decoder = product.weight, product.weight.float32.producer()
    assert decoder is not None
    weight = weights.write(model, Edit(decoder), f"{stored.name}.split", blocks, stored.dtype)
    old = product.node.inputs[1]
    product.node.replace_input_with(1, weight)
    if old is not None and (producer := old.producer()) is not None:
        drop_dead([producer])
